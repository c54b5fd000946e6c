"""What TuningService answers about this server: who asks, what may be asked for, and within which ranges."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from caikit_pt import call, settings
from caikit_pt.base_model.loading.checkpoint import known
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.source import SOURCE_PARAMETERS
from caikit_pt.parameters.table import Limits, Parameter, ParameterTable
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.runtime.tuning_messages import Description


def described(state_id: str) -> Description:
    """As it is for the caller; `state_id` is that of trainings which are shared."""
    now, asked = settings.current(), call.current()
    return Description(
        caller=asked.principal.name if asked else "",
        version=version("caikit-pt"),
        state_id=state_id,
        base_models=known(now),
        parameters={
            "tuning": _rows(TUNING_PARAMETERS, now.tuning_limits),
            "source": _rows(SOURCE_PARAMETERS, now.tuning_limits),
            "generation": _rows(
                GENERATION_PARAMETERS, {"max_new_tokens": (1.0, float(now.max_new_tokens_limit))}
            ),
        },
    )


def _rows(table: ParameterTable, limits: Limits) -> list[dict[str, Any]]:
    return [_row(parameter, limits) for parameter in table]


def _row(parameter: Parameter, limits: Limits) -> dict[str, Any]:
    low, high = parameter.range(limits)
    default = parameter.default
    if default is not None and parameter.kind in (int, float) and not parameter.many:
        default = parameter.nearest(default, limits)
    return {
        "name": parameter.name,
        "path": parameter.path,
        "type": parameter.kind.__name__,
        "meaning": parameter.meaning,
        "default": list(default) if parameter.many and default is not None else default,
        "source": parameter.source,
        "low": low,
        "high": high,
        "above_low": parameter.above_low,
        "choices": list(parameter.choices),
        "many": parameter.many,
    }
