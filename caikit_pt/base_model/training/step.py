"""One step of training: all that is computed between two changes of the soft prompts.

A step is given one or more prompts, takes the losses of any number of batches, and at the end carries
the gradients back to the prompts. What doesn't depend on the rows is computed once a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.base_model.training.targets import Targets


class Step(ABC):
    """Losses of batches under `prompts`, and the gradients of these."""

    @abstractmethod
    def targets(self, batch: TrainingBatch, layers: Collection[int] = ()) -> Targets:
        """What predicts the target tokens of `batch`, with the states of `layers`.

        `backward` of anything made of it may be called once for each batch; the gradients add up.
        """

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        """The summed cross-entropy [B] (nats, float32) of each row's target."""
        return self.targets(batch).losses()

    @abstractmethod
    def finish(self) -> None:
        """Carries the gradients that have added up through the prompts, to what they are made of."""


class Leaves:
    """Tensors cut off from what they were computed from, so that gradients add up in them first."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._origins = tensors
        self.tensors = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]

    def carry_on(self) -> None:
        """One backward from the leaves to where they come from."""
        pairs = [
            (origin, leaf.grad)
            for origin, leaf in zip(self._origins, self.tensors, strict=True)
            if leaf.grad is not None
        ]
        torch.autograd.backward([origin for origin, _ in pairs], [gradient for _, gradient in pairs])


class LeafPrompts:
    """Soft prompts as leaves."""

    def __init__(self, prompts: Sequence[PromptTensors]) -> None:
        self._leaves = Leaves([tensor for prompt in prompts for tensor in prompt.values()])
        leaves = iter(self._leaves.tensors)
        self.prompts = [{part: next(leaves) for part in prompt} for prompt in prompts]

    def of_rows(self, batch: TrainingBatch) -> list[PromptTensors]:
        """The prompt of each row of `batch`."""
        return [self.prompts[index] for index in batch.prompt_of_rows]

    def take(self, gradients: Tensor) -> None:
        """Those of all leaves, one behind another [N], computed elsewhere."""
        sizes = [leaf.numel() for leaf in self._leaves.tensors]
        parts = torch.split(gradients, sizes)
        for leaf, own in zip(self._leaves.tensors, parts, strict=True):
            leaf.grad = own.view_as(leaf).to(leaf)

    def carry_on(self) -> None:
        """See `Leaves`."""
        self._leaves.carry_on()


class PaddedTargets(Protocol):
    """A family's `TrainingSide.padded_targets`."""

    def __call__(
        self, prompts: Sequence[PromptTensors], batch: TrainingBatch, layers: Collection[int]
    ) -> Targets: ...


class PaddedStep(Step):
    """For every model: prompt and text of each row padded to one length, and nothing shared."""

    def __init__(
        self,
        targets: PaddedTargets,
        prompts: Sequence[PromptTensors],
    ) -> None:
        self._targets = targets
        self._prompts = LeafPrompts(prompts)

    def targets(self, batch: TrainingBatch, layers: Collection[int] = ()) -> Targets:
        return self._targets(self._prompts.of_rows(batch), batch, layers)

    def finish(self) -> None:
        self._prompts.carry_on()
