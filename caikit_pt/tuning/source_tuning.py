"""Prompts of several tasks that share rows, trained together: windows of all tasks, updates, validations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from caikit_pt.tuning.course import course
from caikit_pt.tuning.curve import Curve, Point, is_read_after
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.losses import Backward, Losses, backward, losses
from caikit_pt.tuning.mixture import Mixture, OfTask
from caikit_pt.tuning.source_plan import SourcePlan
from caikit_pt.tuning.task_exams import TaskExams
from caikit_pt.tuning.task_learner import TaskLearner
from caikit_pt.tuning.teaching import Teaching
from caikit_pt.tuning.validation import JUDGED, held_out
from caikit_pt.tuning.walk import Update

_LOG = logging.getLogger(__name__)


class SourceTuning:
    """The second phase of the training of `plan`, while it runs."""

    def __init__(
        self,
        plan: SourcePlan,
        base: BaseModel,
        on_update: Callable[[Point], None],
        on_validation: Callable[[str, Validated], None],
        backward: Backward = backward,
        losses: Losses = losses,
    ) -> None:
        """`backward` and `losses`: who computes them. Raises InvalidRecord as `make_examples` does."""
        import torch

        self._plan, self._base, self._on_update = plan, base, on_update
        self._examples = [
            make_examples(one.records, base.text, one.parameters) for one in plan.tasks.values()
        ]
        self._validations = {name: held_out(one, base, losses) for name, one in plan.tasks.items()}
        training, packed = plan.training, base.training.trains_packed
        lengths = [examples.lengths for examples in self._examples]
        self.mixture = Mixture(lengths, plan.parameters.most_records, training, by_length=not packed)
        generator = torch.Generator().manual_seed(training.seed)
        initial = initial_prompt(Start(base, training, generator, None)).to(base.weights.device)
        prompts = TaskPrompts(initial, len(plan.tasks), plan.parameters.num_ranks, training, generator)
        self._learner = TaskLearner(prompts, training, self.mixture.updates, backward)
        self._curve = Curve(self.mixture.updates)
        self._exams = TaskExams(self._validations, training, self.mixture.updates, on_validation)
        self._left = self.mixture.left()
        self._stopped = False
        self._teaching: Teaching | None = None

    @property
    def over(self) -> bool:
        """Whether all updates are made, or it has stopped early."""
        return self._stopped or self.mixture.at >= self.mixture.updates

    @property
    def updates(self) -> int:
        """How many there will be, as far as can be seen."""
        return self.mixture.at if self._stopped else self.mixture.updates

    @property
    def lowest_loss(self) -> float | None:
        """The lowest mean of validation losses so far."""
        return self._exams.best.loss if self._exams.best else None

    def learn_from(self, teachers: Sequence[SoftPrompt]) -> None:
        """From now on each task learns from its teacher, too."""
        device = self._base.weights.device
        prompts = [teacher.to(device).tensors for teacher in teachers]
        self._teaching = Teaching(self._base, prompts, self._plan.parameters)

    def warn(self) -> None:
        """Of what was cut."""
        for name, examples in zip(self._plan.names, self._examples, strict=True):
            for warning in examples.warnings:
                _LOG.warning("%s: %s", name, warning)

    def update(self) -> None:
        """Makes the next one. Raises TrainingDiverged where the loss stops being a finite number."""
        update, learner = next(self._left), self._learner
        loss = learner.gradients(self._base, self._batch(update), self._teaching)
        rate = learner.learning_rate
        self._curve.updated(update.epoch, update.step, rate, loss, learner.step(loss))
        # First, so that the progress of this update knows its validation.
        self._stopped = self._exams.settle(learner, update)
        if is_read_after(update.step, self.mixture.updates, self._base.weights.device):
            self.look()

    def look(self) -> None:
        """Reads the losses, and tells of them. Raises TrainingDiverged."""
        points = self._curve.read()
        if self._curve.diverged:
            raise self._curve.diverging(self._plan.training.learning_rate)
        for point in points:
            self._on_update(point)

    def kept(self) -> SourcePrompt:
        """The source with the lowest mean of validation losses; without a validation the last."""
        return (
            self._exams.best.source if self._exams.best else self._learner.prompts.finished(self._plan.names)
        )

    def came_to(self) -> dict[str, float | int | str]:
        """The course of the loss (course.py), the updates that were made and skipped, and the one that is
        kept, with its mean loss."""
        best, last = self._exams.best, self._curve.points[-1]
        kept = best or last
        told: dict[str, float | int | str] = {
            "course": course([point.loss for point in self._curve.points]),
            "updates": last.step,
            "skipped_updates": self._curve.skipped,
            "kept_epoch": kept.epoch,
            "kept_update": kept.step,
        }
        return {**told, "validation_loss": best.loss} if best else told

    def metrics(self, number: int, prompt: SoftPrompt) -> dict[str, float]:
        """Loss and the metrics of the `number`th task under `prompt`; none without validation records."""
        validation = self._validations[self._plan.names[number]]
        if validation is None:
            return {}
        scores = validation.scores(prompt, JUDGED)
        return {"loss": scores.loss.value, **{name: one.value for name, one in scores.metrics.items()}}

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the plan again. Updates must have been read."""
        return {
            "stopped": self._stopped,
            "learner": self._learner.state_dict(),
            **self.mixture.state_dict(),
            **self._curve.state_dict(),
            "exams": self._exams.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of the same plan, before the first update."""
        self._stopped = state["stopped"]
        self._learner.load_state_dict(state["learner"])
        self.mixture.load_state_dict(state)
        self._curve.load_state_dict(state)
        self._exams.load_state_dict(state["exams"], self._learner.prompts.finished(self._plan.names))

    def _batch(self, update: Update[OfTask]) -> TrainingBatch:
        """The examples of all tasks that `update` sees, each behind the prompt of its task."""
        items = [self._examples[task].items[index] for task, index in update.window]
        return TrainingBatch(
            [item.source for item in items],
            [item.target for item in items],
            [task for task, _ in update.window],
        )
