"""The contest of a training: none, a search, or that of the source prompts that it may start from."""

from __future__ import annotations

from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.tuning import AUTO
from caikit_pt.tuning.contest import Alone, Contest, Entrant
from caikit_pt.tuning.examples import Examples
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.search import Search
from caikit_pt.tuning.source_trial import SourceTrial
from caikit_pt.tuning.validation import Validation


def contest_of(
    plan: TuningPlan, base: BaseModel, examples: Examples, validation: Validation | None, updates: int
) -> Contest:
    """What `plan` asks for."""
    if plan.starts:
        return SourceTrial(plan, base, examples, updates)
    if plan.parameters.search == AUTO:
        assert validation is not None, "a plan with a search has validation records"
        return Search(plan, base, validation, updates)
    return Alone(Entrant(plan.parameters, plan.initial))
