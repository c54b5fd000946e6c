"""Whether the product has what a contender asks for."""

from __future__ import annotations

from functools import cache
from tempfile import TemporaryDirectory

from bench.starts.contender import AUTO, Contender
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import make_plan

_RECORDS = [{"input": word, "output": word} for word in ("yes", "no")]
_IGNORED = "prompt_tuning_init_source_model is ignored"


def not_available(contender: Contender, base: BaseModel) -> str:
    """Why it can't be tried, or nothing where it can.

    A release that doesn't know `auto` warns that it ignores it.
    """
    return _ignored(base) if contender is AUTO else ""


@cache
def _ignored(base: BaseModel) -> str:
    asked = {"base_model": base.checkpoint.name, "tuning_task": "classification", **AUTO.request}
    with TemporaryDirectory() as folder:
        try:
            plan = make_plan(asked, _RECORDS, None, Settings(source_prompt_base=folder), base, tells=False)
        except InvalidParameter:
            # It has looked for a source, and here is none.
            return ""
    ignored = any(_IGNORED in warning for warning in plan.warnings)
    return f"{AUTO.name} is not available for {base.checkpoint.name}." if ignored else ""
