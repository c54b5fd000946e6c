"""A soft prompt that learns, and the gradients of an update of one or more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.prompt import TrainablePrompt
from caikit_pt.tuning.losses import Backward, backward
from caikit_pt.tuning.mover import Mover

if TYPE_CHECKING:
    import torch


class Learner(Mover):
    """Moves one soft prompt by the gradients it gets. `updates` are those that it will make in all."""

    def __init__(self, prompt: TrainablePrompt, parameters: TuningParameters, updates: int) -> None:
        super().__init__(prompt.parameter_groups(), parameters, updates)
        self.prompt = prompt


def gradients(
    base: BaseModel,
    learners: Sequence[Learner],
    batches: Sequence[TrainingBatch],
    backward: Backward = backward,
) -> list[torch.Tensor]:
    """Gives each learner the gradients of its loss on a batch of its own; all rows share forward passes.
    `backward`: who computes them.

    Returns the losses (nats a target token, float32 scalars), each the mean over the target tokens of the
    learner's whole batch. Nothing that a learner gets depends on the others, but for rounding.
    """
    import torch

    for learner in learners:
        learner.forget_gradients()
    sizes = [len(batch.sources) for batch in batches]
    weights = [1 / batch.target_tokens for batch in batches]
    together = TrainingBatch(
        [source for batch in batches for source in batch.sources],
        [target for batch in batches for target in batch.targets],
        [number for number, size in enumerate(sizes) for _ in range(size)],
    )
    of_rows = [weight for weight, size in zip(weights, sizes, strict=True) for _ in range(size)]
    prompts = [learner.prompt.tensors() for learner in learners]
    rows = backward(base, prompts, together, of_rows, None).split(sizes)  # type: ignore[no-untyped-call]
    return [row.sum(dtype=torch.float32) * weight for row, weight in zip(rows, weights, strict=True)]


Gradients = Callable[[BaseModel, Sequence[Learner], Sequence[TrainingBatch]], "list[torch.Tensor]"]
