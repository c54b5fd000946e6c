"""A request for a source training becomes a plan: that of each task, as any training has it, and the rest.

No weight of the base model is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.source import (
    NOT_OF_SOURCES,
    OF_EACH_TASK,
    SOURCE_PARAMETERS,
    SourceParameters,
    resolve_source,
    with_rate_of_sources,
)
from caikit_pt.parameters.tuning import (
    MULTITASK_PROMPT_TUNING,
    PROMPT_TUNING,
    SOURCE_INIT_METHODS,
    TUNING_PARAMETERS,
    TuningParameters,
    check_request,
)
from caikit_pt.paths import check_plain_name
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.records import Records

_LOG = logging.getLogger(__name__)
FIELD = "tasks"
_FEWEST, _MOST = 2, 1_000
_METHOD = "prompt_tuning_init_method"
# What each task has for itself, or no source training has; but its type.
_NOT_SHARED = {*OF_EACH_TASK, *NOT_OF_SOURCES} - {"tuning_type"}
# What changes nothing of what a training comes to.
_NO_MATTER = ("origins", "silence_progress_bars")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """A task as a request has it: the records of each stream as `read_records` takes them, and what else of
    a training is its own; empty: the default."""

    name: str
    records: Iterable[Any]
    validation: Iterable[Any] | None = None
    verbalizer: str = ""
    input_field: str = ""
    output_field: str = ""
    tuning_task: str = ""

    @property
    def request(self) -> dict[str, str]:
        """The parameters that it sets."""
        return {name: value for name in OF_EACH_TASK if (value := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """All that a source training needs but the weights: the plan of each task by its name, in the order of
    the tensors, and the `parameters` that only source trainings have."""

    tasks: Mapping[str, TuningPlan]
    parameters: SourceParameters

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(self.tasks)

    @property
    def training(self) -> TuningParameters:
        """What the tasks have in common. Where a preset has different values for them, the first task's
        count."""
        return self._first.parameters

    @property
    def checkpoint(self) -> Checkpoint:
        """The base model."""
        return self._first.checkpoint

    def base_model(self, device: str = "") -> BaseModel:
        """See `TuningPlan.base_model`."""
        return self._first.base_model(device)

    def check_training(self) -> None:
        """See `TuningPlan.check_training`; it is the same for all tasks."""
        self._first.check_training()
        if self.parameters.state_weight and self._first.is_small:
            self.check_states(self.base_model())

    def check_states(self, base: BaseModel) -> None:
        """Raises InvalidParameter where states are to be compared that `base` doesn't tell."""
        from caikit_pt.base_model.trials.states import check_states

        if self.parameters.state_weight:
            check_states(base.training, self.parameters.state_layers)

    @property
    def streams(self) -> tuple[Records | None, ...]:
        """All of the records of all tasks."""
        return tuple(stream for plan in self.tasks.values() for stream in plan.streams)

    def to_dict(self) -> dict[str, Any]:
        """What all tasks share, what source trainings alone have, and of each of the `tasks` what it has for
        itself: plain values, with where each is from."""
        shared, own = self.training.to_dict(), self.parameters.to_dict()
        origins = {**shared["origins"], **own["origins"]}
        common = {name: value for name, value in shared.items() if name not in _NOT_SHARED}
        return {
            **common,
            **own,
            "origins": {name: origin for name, origin in origins.items() if name not in _NOT_SHARED},
            "tasks": [self._of_task(name, plan) for name, plan in self.tasks.items()],
        }

    def _of_task(self, name: str, plan: TuningPlan) -> dict[str, Any]:
        validation = len(plan.validation) if plan.validation else 0
        counts = {"records": len(plan.records), "validation_records": validation}
        return {"name": name, **counts, **{one: getattr(plan.parameters, one) for one in OF_EACH_TASK}}

    @property
    def teachers(self) -> dict[str, TuningPlan]:
        """The plan of each task's teacher: plain prompt tuning."""
        return {name: self._taught(plan) for name, plan in self.tasks.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and yet unlikely to be meant, with the task."""
        return tuple(f"{name}: {told}" for name, plan in self.tasks.items() for told in plan.warnings)

    @property
    def digest(self) -> str:
        """Of all that decides what the training comes to, by which its snapshots are known again."""
        told = [self.checkpoint.fingerprint, _known(self.parameters.to_dict())]
        for name, plan in self.tasks.items():
            streams = [plan.records.digest, plan.validation.digest if plan.validation else ""]
            told += [name, _known(plan.parameters.to_dict()), streams]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def _first(self) -> TuningPlan:
        return next(iter(self.tasks.values()))

    def _taught(self, plan: TuningPlan) -> TuningPlan:
        own, origin = plan.parameters, self.parameters.origins
        origins = {
            **own.origins,
            "num_epochs": f"teacher_epochs: {origin['teacher_epochs']}",
            "learning_rate": f"teacher_learning_rate: {origin['teacher_learning_rate']}",
        }
        parameters = replace(
            own,
            tuning_type=PROMPT_TUNING,
            num_epochs=self.parameters.teacher_epochs,
            learning_rate=self.parameters.teacher_learning_rate,
            origins=origins,
        )
        return replace(plan, parameters=parameters)


def make_source_plan(
    request: Mapping[str, Any],
    tasks: Sequence[TaskData],
    settings: Settings,
    resource: BaseModel | None = None,
) -> SourcePlan:
    """Checks a request for a source training of `tasks` and resolves its defaults.

    `request` holds by name what SOURCE_PARAMETERS has and what all tasks share of TUNING_PARAMETERS, None for
    unset. Raises InvalidParameter (or one of its kinds) for the first thing that may not be; where that is a
    task's, its field begins with the task's name, `tasks.NAME`.
    """
    own = {name: value for name, value in request.items() if name in _OWN}
    shared = {name: value for name, value in request.items() if name not in _OWN and value is not None}
    _check_names([task.name for task in tasks])
    given = SOURCE_PARAMETERS.check(own, settings.tuning_limits)
    _check_shared(shared)
    shared["tuning_type"] = MULTITASK_PROMPT_TUNING
    check_request(shared, settings.tuning_limits)
    plans = {}
    for task in tasks:
        with of_task(task.name):
            asked = {**shared, **task.request}
            planned = make_plan(asked, task.records, task.validation, settings, resource, tells=False)
        plans[task.name] = replace(
            planned,
            parameters=with_rate_of_sources(planned.parameters, settings.tuning_limits),
            records=_named(planned.records, task.name),
            validation=planned.validation and _named(planned.validation, task.name),
        )
    first = next(iter(plans.values()))
    plan = SourcePlan(plans, resolve_source(given, first.parameters, first.checkpoint.layers))
    for warning in plan.warnings:
        _LOG.warning(warning)
    return plan


_OWN = frozenset(parameter.name for parameter in SOURCE_PARAMETERS)


def _check_names(names: Sequence[str]) -> None:
    """Raises InvalidParameter."""
    for name in names:
        check_plain_name(name, FIELD)
    if not _FEWEST <= len(names) <= _MOST:
        raise InvalidParameter(
            FIELD,
            ", ".join(names) if len(names) < _FEWEST else f"{len(names)} tasks",
            f"{_FEWEST} to {_MOST:,} tasks that share a prompt; of one task, tune a prompt of its own",
        )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise InvalidParameter(FIELD, name, "each name once; give one of the tasks another")


def _check_shared(shared: Mapping[str, Any]) -> None:
    """Raises InvalidParameter for what isn't common to the tasks, or not for a source training."""
    for name in OF_EACH_TASK:
        if name in shared:
            raise InvalidParameter(name, shared[name], f"unset; each of the {FIELD} has its own")
    for name in NOT_OF_SOURCES:
        if name in shared:
            field = TUNING_PARAMETERS[name].field
            raise InvalidParameter(field, shared[name], "unset where source prompts are trained")
    if shared.get(_METHOD) in SOURCE_INIT_METHODS:
        methods = [one for one in TUNING_PARAMETERS[_METHOD].choices if one not in SOURCE_INIT_METHODS]
        raise InvalidParameter(
            TUNING_PARAMETERS[_METHOD].field,
            shared[_METHOD],
            f"{', '.join(methods)}: a source is made, and not started from",
        )


@contextmanager
def of_task(name: str) -> Iterator[None]:
    """What is refused inside is told with the task. Raises InvalidParameter, or one of its kinds."""
    try:
        yield
    except InvalidParameter as error:
        raise type(error)(f"{FIELD}.{name}.{error.field}", error.value, error.allowed) from error


def _named(records: Records, name: str) -> Records:
    return replace(records, stream=f"{FIELD}.{name}.{records.stream}")


def _known(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in _NO_MATTER}
