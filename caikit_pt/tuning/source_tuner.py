"""Trains a source prompt: plan -> teachers -> prompts that share rows -> source prompt.

Knows nothing of gRPC or caikit. All randomness comes from generators seeded by the plan.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

from caikit_pt import ending
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, TrainingInterrupted
from caikit_pt.soft_prompt.json_object import LARGEST_WHOLE
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_manifest import Recipe, SourceTask, data_sha256
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.curve import Point
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.losses import Backward, Losses, backward, losses
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import SourcePlan
from caikit_pt.tuning.source_progress import SOURCES, TEACHERS, SourceProgress, TaskValidated
from caikit_pt.tuning.source_tuning import SourceTuning
from caikit_pt.tuning.teachers import Round, Teachers

_LOG = logging.getLogger(__name__)
# Of what the tasks have in common, what stands in a recipe.
_IN_A_RECIPE = (
    "prompt_tuning_init_method",
    "prompt_tuning_init_text",
    "output_model_types",
    "torch_dtype",
    "num_epochs",
    "learning_rate",
    "task_learning_rate",
    "batch_size",
    "accumulate_steps",
    "max_source_length",
    "max_target_length",
    "seed",
    "optimizer",
    "lr_scheduler_type",
    "warmup_ratio",
    "max_grad_norm",
    "weight_decay",
    "validation_steps",
    "early_stopping_patience",
)


def tune_source(
    plan: SourcePlan,
    base: BaseModel,
    on_update: Callable[[SourceProgress], None] | None = None,
    gradients: Gradients = gradients,
    snapshots: Snapshots | None = None,
    on_validation: Callable[[TaskValidated], None] | None = None,
    backward: Backward = backward,
    losses: Losses = losses,
) -> TrainedSource:
    """Trains the source prompt that `plan` describes in front of the frozen `base`.

    `gradients` computes those of the teachers, `backward` those of what learns from them, and `losses` those
    of validation records. With `snapshots` it goes on from the newest, if there is one,
    and keeps more; on the CPU it ends with the same bits as if it had never been interrupted. Raises what
    `tune` does; InvalidParameter also for states of layers that can't be had of the base model, and for
    snapshots of another training.
    """
    from caikit_pt.base_model.trials.training import check_training

    def ignore(_: object) -> None: ...

    with ending.waits_for_this(), no_denormals():
        check_training(base.training, plan.training.output_model_types)
        plan.check_states(base)
        run = _Run(plan, base, on_update or ignore, on_validation or ignore, backward, losses)
        run.begin(snapshots)
        while not run.over:
            if ending.is_near():
                raise TrainingInterrupted("The training was stopped: its process is ending.")
            run.update(gradients)
            if snapshots and snapshots.due:
                run.keep(snapshots)
        return run.finished()


class _Run:
    """One source training while it runs: its teachers first, if it has any, then what learns from them."""

    def __init__(
        self,
        plan: SourcePlan,
        base: BaseModel,
        on_update: Callable[[SourceProgress], None],
        on_validation: Callable[[TaskValidated], None],
        backward: Backward,
        losses: Losses,
    ) -> None:
        self._plan = plan
        self._on_update, self._on_validation = on_update, on_validation
        self._sources = SourceTuning(plan, base, self._updated, self._examined, backward, losses)
        self._teachers = (
            Teachers(plan.teachers, base, self._taught_round, self._teacher_examined, losses)
            if plan.parameters.has_teachers
            else None
        )
        self._taught: list[SoftPrompt] = []
        # Of the teachers, once they are done.
        self._rounds, self._samples, self._tokens = 0, 0, 0.0
        self._told: list[SourceProgress] = []
        self._validated: list[TaskValidated] = []

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return self._teachers is None and self._sources.over

    def begin(self, snapshots: Snapshots | None) -> None:
        """From the newest snapshot, or from the beginning. Raises InvalidParameter for another training's."""
        self._started = time.monotonic()
        state = snapshots.newest() if snapshots else None
        if not (snapshots and state):
            self._sources.warn()
            if self._teachers:
                self._teachers.begin()
            return
        if state.get("of") != self._plan.digest:
            raise InvalidParameter(
                "state",
                "snapshots of another training",
                "those of this training, with records and parameters as they were when it was begun; or a "
                "directory without any",
            )
        self._load_state_dict(state)
        self._tell_again(snapshots.told)
        _LOG.info("the training goes on from update %d of %d", self._at, self._steps)

    def update(self, gradients: Gradients) -> None:
        """The next one of whichever phase it is. Raises TrainingDiverged."""
        if self._teachers is None:
            self._sources.update()
            if self._sources.over:
                self._sources.look()
            return
        self._teachers.update(gradients)
        self._count_teachers(self._teachers)
        if self._teachers.over:
            self._teachers.look()
            self._learn_from(self._teachers.kept())

    def keep(self, snapshots: Snapshots) -> None:
        """Raises TrainingInterrupted where nobody wants the training to go on now."""
        (self._teachers or self._sources).look()
        snapshots.keep_and_go_on(self._at, self._steps, self._state_dict())

    def finished(self) -> TrainedSource:
        """What is kept, with all that is known of it."""
        source = self._sources.kept()
        tasks = [self._task(number, source) for number in range(len(self._plan.tasks))]
        return TrainedSource(source, self._plan.checkpoint, tasks, self._recipe())

    # ---- where it stands ----

    @property
    def _at(self) -> int:
        return self._rounds + self._sources.mixture.at

    @property
    def _steps(self) -> int:
        rounds = self._teachers.rounds if self._teachers else self._rounds
        return rounds + self._sources.updates

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _count_teachers(self, teachers: Teachers) -> None:
        self._rounds, self._samples, self._tokens = teachers.at, teachers.samples[0], teachers.tokens

    def _learn_from(self, teachers: Sequence[SoftPrompt]) -> None:
        self._taught, self._teachers = list(teachers), None
        self._sources.learn_from(self._taught)

    # ---- what is told ----

    def _taught_round(self, of: Round) -> None:
        self._progressed(TEACHERS, of.number, of.epoch, of.loss, of.learning_rate)

    def _updated(self, point: Point) -> None:
        step = self._rounds + point.step
        self._progressed(SOURCES, step, point.epoch, point.loss, point.learning_rate)

    def _progressed(self, phase: str, step: int, epoch: int, loss: float, rate: float) -> None:
        mixture, teachers = self._sources.mixture, self._teachers
        if teachers:
            self._count_teachers(teachers)
        of_teachers = teachers.samples[1] if teachers else self._samples
        progress = SourceProgress(
            epoch=epoch,
            step=step,
            steps=self._steps,
            loss=loss,
            seconds=self._seconds,
            learning_rate=rate,
            validation_loss=self._sources.lowest_loss,
            samples=self._samples + mixture.samples(mixture.at),
            tokens=round(self._tokens + mixture.samples(mixture.at) * mixture.tokens_a_sample),
            phase=phase,
            samples_in_all=of_teachers + mixture.samples(self._sources.updates),
        )
        self._told.append(progress)
        self._on_update(progress)

    def _examined(self, task: str, found: Validated) -> None:
        self._found(SOURCES, task, replace(found, step=self._rounds + found.step))

    def _teacher_examined(self, task: str, found: Validated) -> None:
        self._found(TEACHERS, task, found)

    def _found(self, phase: str, task: str, found: Validated) -> None:
        self._validated.append(TaskValidated(phase, task, found))
        self._on_validation(self._validated[-1])

    def _tell_again(self, told: float) -> None:
        """All since the update `told`."""
        for validated in self._validated:
            if validated.found.step > told:
                self._on_validation(validated)
        for progress in self._told:
            if progress.step > told:
                self._on_update(progress)

    # ---- what is kept ----

    def _state_dict(self) -> dict[str, Any]:
        return {
            "of": self._plan.digest,
            "seconds": self._seconds,
            "rounds": self._rounds,
            "samples": self._samples,
            "tokens": self._tokens,
            "told": [astuple(progress) for progress in self._told],
            "validated": [(one.phase, one.task, *astuple(one.found)) for one in self._validated],
            "teachers": self._teachers and self._teachers.state_dict(),
            "taught": [dict(prompt.tensors) for prompt in self._taught],
            "sources": None if self._teachers else self._sources.state_dict(),
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._started -= state["seconds"]
        self._rounds, self._samples, self._tokens = state["rounds"], state["samples"], state["tokens"]
        self._told = [SourceProgress(*values) for values in state["told"]]
        self._validated = [
            TaskValidated(phase, task, Validated(*found)) for phase, task, *found in state["validated"]
        ]
        if self._teachers and state["teachers"]:
            self._teachers.load_state_dict(state["teachers"])
            return
        if self._teachers:
            self._learn_from([SoftPrompt(tensors) for tensors in state["taught"]])
        self._sources.load_state_dict(state["sources"])

    # ---- what is known of the source ----

    def _task(self, number: int, source: SourcePrompt) -> SourceTask:
        name = self._plan.names[number]
        of_task = self._plan.tasks[name]
        found = self._sources.metrics(
            number, source.prompt_of(number, self._plan.training.output_model_types)
        )
        if self._taught:
            taught = self._sources.metrics(number, self._taught[number])
            found.update({f"teacher_{metric}": value for metric, value in taught.items()})
        return SourceTask(
            name=name,
            records=len(of_task.records),
            data_sha256=data_sha256((record.input, record.output) for record in of_task.records.items),
            verbalizer=of_task.parameters.verbalizer,
            separator=of_task.parameters.separator,
            metrics={metric: value for metric, value in found.items() if math.isfinite(value)},
        )

    def _recipe(self) -> Recipe:
        """Flat, as a manifest has it."""
        own, training = self._plan.parameters.to_dict(), self._plan.training
        del own["origins"]
        common = {name: getattr(training, name) for name in _IN_A_RECIPE}
        if training.seed > LARGEST_WHOLE:
            common["seed"] = str(training.seed)
        return {**common, **own, "teachers": bool(self._taught), **self._sources.came_to()}
