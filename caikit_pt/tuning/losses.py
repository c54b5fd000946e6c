"""Losses of examples under one or more soft prompts, with or without gradients, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.layers.reading import LAST
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.tuning.batches import Pass, passes

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.training.step import Step
    from caikit_pt.base_model.training.targets import Targets


@dataclass(frozen=True, slots=True)
class Lessons:
    """What rows learn from teachers beside their targets: the same rows behind other prompts, in a `step` of
    their own, which `prompts` names there for each of the rows'. Weights of the divergence of next tokens, at
    `temperature`, and of the distance of the states of `layers` (`Targets`)."""

    step: Step
    prompts: Sequence[int]
    tokens: float
    temperature: float
    states: float
    layers: Collection[int] = (LAST,)
    teachers: Sequence[PromptTensors] = ()

    @property
    def asked(self) -> Collection[int]:
        """The layers whose states count."""
        return self.layers if self.states else ()


def losses(base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
    """The summed cross-entropy [B] (nats, float32) of each row's target, without gradients."""
    import torch

    from caikit_pt.base_model.layers.parcel import upload

    def compute(budget: Budget) -> torch.Tensor:
        with torch.no_grad():
            step = step_for(base, prompts, batch)
            parts = passes(batch, base, prompts, budget)
            (order,) = upload([_order(parts)], base.weights.device)
            return torch.cat([step.target_losses(part.batch) for part in parts])[order]

    return base.training.memory.fit(compute)


def backward(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    batch: TrainingBatch,
    weights: Sequence[float],
    lessons: Lessons | None = None,
) -> torch.Tensor:
    """As `losses`; and what `prompts` are made of gets the gradient of the losses times `weights` [B], those
    of `lessons` among them."""
    import torch

    from caikit_pt.base_model.layers.parcel import upload
    from caikit_pt.base_model.layers.recompute import recomputing

    def compute(budget: Budget) -> tuple[Step, torch.Tensor]:
        with recomputing(budget.recompute):
            step = step_for(base, prompts, batch)
        parts = passes(batch, base, prompts, budget)
        told = torch.tensor([weights[row] for part in parts for row in part.rows], dtype=gradient_type(base))
        factors, order = upload([told, _order(parts)], base.weights.device)
        seen = []
        for part, own in zip(parts, torch.split(factors, [len(part.rows) for part in parts]), strict=True):
            with recomputing(budget.recompute):
                targets = step.targets(part.batch, lessons.asked if lessons else ())
            row_losses = targets.losses()
            learnt = row_losses + _taught(lessons, part.batch, targets) if lessons else row_losses
            (learnt * own).sum().backward()  # type: ignore[no-untyped-call]
            seen.append(row_losses.detach())
        return step, torch.cat(seen)[order]

    # Only a step that has got through all passes hands on what it has gathered, so nothing counts twice.
    step, together = base.training.memory.fit(compute, keeps_activations=True)
    step.finish()
    return together


Losses = Callable[[BaseModel, Sequence[PromptTensors], TrainingBatch], "torch.Tensor"]
Backward = Callable[
    [BaseModel, Sequence[PromptTensors], TrainingBatch, Sequence[float], Lessons | None], "torch.Tensor"
]


def gradient_type(base: BaseModel) -> torch.dtype:
    """What gradients of soft prompts in front of `base` have: float32, or what has more digits."""
    import torch

    return torch.promote_types(base.weights.dtype, torch.float32)


def _taught(lessons: Lessons, batch: TrainingBatch, targets: Targets) -> torch.Tensor | float:
    """What each row of `batch` loses [B] by what its teacher says."""
    import torch

    with torch.no_grad():
        prompts = [lessons.prompts[own] for own in batch.prompt_of_rows]
        taught = lessons.step.targets(replace(batch, prompts=prompts), lessons.asked)
    tokens = lessons.tokens * targets.divergences(taught, lessons.temperature) if lessons.tokens else 0.0
    states = lessons.states * targets.distances(taught, lessons.layers) if lessons.states else 0.0
    return tokens + states


def step_for(base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> Step:
    """The fastest step that is right for `batch`."""
    if not all(batch.sources):
        # The prompt itself, which a packed step shares between the rows, predicts a first target token.
        return base.training.padded_step(prompts)
    return base.training.step(prompts, _common(batch))


def _order(parts: Sequence[Pass]) -> torch.Tensor:
    """Where each row of the batch is among those of all `parts`, [B] (int64)."""
    import torch

    return torch.tensor([row for part in parts for row in part.rows]).argsort()


def _common(batch: TrainingBatch) -> list[int]:
    """Tokens that all sources begin with, and that none of them ends with."""
    first = min(batch.sources, key=len)
    length = 0
    while length < len(first) - 1 and all(source[length] == first[length] for source in batch.sources):
        length += 1
    return list(first[:length])
