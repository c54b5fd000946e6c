"""The parameters of a source training beside those of every training, and what they resolve to.

*MPT* is arXiv 2303.02861. What it chose is told from memory where that is said: its text could not be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import REQUEST, Limits, Parameter, ParameterTable
from caikit_pt.parameters.tuning import SOURCE_INIT_METHODS, TUNING_PARAMETERS, TuningParameters

_MOST_LAYERS = 1_000
_TASK_LEARNING_RATE_RATIO = 4 / 3
_OF_SOURCES = "4/3 of learning_rate, the ratio of MPT's 0.4 to its 0.3 (from memory)"

SOURCE_PARAMETERS = ParameterTable(
    Parameter(
        "num_ranks",
        int,
        "The rank of the matrix of each task.",
        default=1,
        source="MPT",
        low=1,
        high=64,
    ),
    Parameter(
        "most_records",
        int,
        "Records that an epoch has of a task, drawn anew in each; a task that has fewer is in it whole.",
        default=10_000,
        source="caikit_pt; MPT caps sizes, too (from memory)",
        low=1,
        high=1_000_000_000,
    ),
    Parameter(
        "teacher_epochs",
        int,
        "Passes over its own records that the teacher of each task is trained for, a plain soft prompt that "
        "the task learns from. 0, or both weights 0: no teachers.",
        source="num_epochs",
        low=0,
        high=10_000,
    ),
    Parameter(
        "teacher_learning_rate",
        float,
        "The highest of a teacher.",
        source="learning_rate",
        low=0,
        high=10,
        above_low=True,
    ),
    Parameter(
        "distillation_weight",
        float,
        "Of the divergence of next tokens from those of the teacher, beside the loss of the records.",
        default=0.9,
        source="MPT (from memory)",
        low=0,
        high=1_000,
    ),
    Parameter(
        "distillation_temperature",
        float,
        "The temperature that both are compared at.",
        default=1.0,
        source="caikit_pt",
        low=0,
        high=100,
        above_low=True,
    ),
    Parameter(
        "state_weight",
        float,
        "Of the distance of states from those of the teacher, in shares of the size of these. Of the last "
        "layer not for base models whose output layer is their table of words.",
        default=0.0,
        source="caikit_pt; MPT has 0.9 (from memory)",
        low=0,
        high=1_000,
    ),
    Parameter(
        "state_layers",
        int,
        "The layers whose states are compared, up to the number that the base model has, of an "
        "encoder-decoder model those of the decoder; their mean counts.",
        source="the last, in front of the output layer",
        low=1,
        high=_MOST_LAYERS,
        many=True,
    ),
)

# Of a training's own parameters, what each task has for itself, and what a source training can't have.
OF_EACH_TASK = ("verbalizer", "input_field", "output_field", "tuning_task")
NOT_OF_SOURCES = (
    "tuning_type",
    "search",
    "reparameterization",
    "prompt_tuning_init_source_model",
    "prompt_tuning_init_task",
    "prompt_tuning_init_task_name",
    "prompt_tuning_init_prompt",
)
_OTHERS = (*OF_EACH_TASK, *NOT_OF_SOURCES)


def _of_all_tasks(parameter: Parameter) -> Parameter:
    """As it is where a source is made: it starts from none."""
    if parameter.name == "task_learning_rate":
        return replace(parameter, source=_OF_SOURCES)
    return replace(
        parameter, choices=tuple(one for one in parameter.choices if one not in SOURCE_INIT_METHODS)
    )


# What all tasks have in common.
SHARED_PARAMETERS = ParameterTable(
    *(_of_all_tasks(parameter) for parameter in TUNING_PARAMETERS if parameter.name not in _OTHERS)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParameters:
    """Each value checked and resolved; `origins` as in TuningParameters."""

    num_ranks: int
    most_records: int
    teacher_epochs: int
    teacher_learning_rate: float
    distillation_weight: float
    distillation_temperature: float
    state_weight: float
    state_layers: tuple[int, ...]
    origins: Mapping[str, str]

    @property
    def has_teachers(self) -> bool:
        """Whether tasks learn from teachers."""
        return self.teacher_epochs > 0 and self.distillation_weight + self.state_weight > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "state_layers": list(self.state_layers)}


def resolve_source(given: Mapping[str, Any], training: TuningParameters, layers: int) -> SourceParameters:
    """A request's own values first, then what follows from the `training` and from the `layers` of the base
    model (0: unknown), then the table's defaults. Raises InvalidParameter for layers that it hasn't."""
    followed = {
        "state_layers": ((layers,) if layers else (), "the last"),
        "teacher_epochs": (training.num_epochs, "num_epochs"),
        "teacher_learning_rate": (training.learning_rate, "learning_rate"),
    }
    values, origins = SOURCE_PARAMETERS.resolved(given, followed)
    if "state_layers" in given:
        _check_layers(given["state_layers"], values["state_weight"], layers)
    return SourceParameters(**values, origins=origins)


def _check_layers(given: tuple[int, ...], weight: float, layers: int) -> None:
    """Raises InvalidParameter."""
    allowed = ""
    if not weight:
        allowed = "unset where state_weight is 0"
    elif not layers:
        allowed = "unset for this base model, whose configuration doesn't say how many layers it has"
    elif not given or len(set(given)) < len(given) or max(given) > layers:
        allowed = f"numbers of layers from 1 to {layers}, each once"
    if allowed:
        raise InvalidParameter("state_layers", list(given), allowed)


def with_rate_of_sources(training: TuningParameters, limits: Limits) -> TuningParameters:
    """Of MPT, where nobody has asked for another one: tasks that begin as one prompt have far to go, and a
    training that starts from them is to stay near."""
    name = "task_learning_rate"
    if training.origins[name] == REQUEST:
        return training
    rate = TUNING_PARAMETERS[name].nearest(training.learning_rate * _TASK_LEARNING_RATE_RATIO, limits)
    return replace(training, task_learning_rate=rate, origins={**training.origins, name: _OF_SOURCES})
