"""The prompts of several tasks that learn together, and what each of their updates learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from caikit_pt.tuning.losses import Backward, backward
from caikit_pt.tuning.mover import Mover
from caikit_pt.tuning.teaching import Teaching

if TYPE_CHECKING:
    import torch


class TaskLearner(Mover):
    """Moves the `prompts` of all tasks. `updates` are those that it will make in all; `backward` computes
    their gradients."""

    def __init__(
        self,
        prompts: TaskPrompts,
        parameters: TuningParameters,
        updates: int,
        backward: Backward = backward,
    ) -> None:
        super().__init__(prompts.parameter_groups(), parameters, updates)
        self.prompts, self._backward = prompts, backward

    def gradients(
        self, base: BaseModel, batch: TrainingBatch, teaching: Teaching | None = None
    ) -> torch.Tensor:
        """Gets those of the loss on `batch`, whose `prompts` are numbers of tasks, and of what their teachers
        say. Returns the loss without the latter (nats a target token, float32 scalar), the mean over the
        target tokens of the whole batch."""
        import torch

        self.forget_gradients()
        # A pass has the prompts of the tasks that it has rows of, and no others.
        tasks = sorted(set(batch.prompts))
        own = TrainingBatch(batch.sources, batch.targets, [tasks.index(task) for task in batch.prompts])
        weight = 1 / batch.target_tokens
        rows = self._backward(
            base,
            self.prompts.prompts(tasks),
            own,
            [weight] * len(batch.sources),
            teaching.lessons(tasks, own) if teaching else None,
        )
        return rows.sum(dtype=torch.float32) * weight
