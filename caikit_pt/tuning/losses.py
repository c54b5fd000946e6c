"""Losses of examples under one or more soft prompts, with or without gradients, however many there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.frozen import BaseModel, PromptTensors, TrainingBatch
from caikit_pt.base_model.memory import is_out_of_memory
from caikit_pt.tuning.batches import passes

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.step import Step

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


def losses(base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
    """The summed cross-entropy [B] (nats, float32) of each row's target, without gradients."""
    import torch

    def compute(budget: Budget) -> torch.Tensor:
        with torch.no_grad():
            step = _step(base, prompts, batch)
            parts = passes(batch, base, prompts, budget)
            return _in_order([(part.rows, step.target_losses(part.batch)) for part in parts])

    return _as_fits(base, compute)


def backward(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    batch: TrainingBatch,
    weights: Sequence[float],
) -> torch.Tensor:
    """As `losses`; and what `prompts` are made of gets the gradient of the losses times `weights` [B]."""
    from caikit_pt.base_model.recompute import recomputing

    def compute(budget: Budget) -> tuple[Step, torch.Tensor]:
        with recomputing(budget.recompute):
            step = _step(base, prompts, batch)
        seen = []
        for part in passes(batch, base, prompts, budget):
            with recomputing(budget.recompute):
                row_losses = step.target_losses(part.batch)
            factors = row_losses.new_tensor([weights[row] for row in part.rows])
            (row_losses * factors).sum().backward()  # type: ignore[no-untyped-call]
            seen.append((part.rows, row_losses.detach()))
        return step, _in_order(seen)

    # Only a step that has got through all passes hands on what it has gathered, so nothing counts twice.
    step, together = _as_fits(base, compute, keeps_activations=True)
    step.finish()
    return together


def _step(base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> Step:
    """The fastest step that is right for `batch`."""
    if not all(batch.sources):
        # The prompt itself, which a packed step shares between the rows, predicts a first target token.
        return base.padded_step(prompts)
    return base.step(prompts, _common(batch))


def _as_fits(base: BaseModel, compute: Callable[[Budget], _T], keeps_activations: bool = False) -> _T:
    """`compute` with the largest budget that memory has room for; the next call begins with it.

    What `keeps_activations` and doesn't fit row by row is tried with layers that are computed twice. What
    doesn't fit even then leaves the budget as it was: it is no measure for others.
    """
    before = base.budget
    while True:
        try:
            return compute(base.budget)
        except RuntimeError as error:
            smaller = base.budget.halved()
            if smaller.positions < 1 and keeps_activations and not smaller.recompute:
                smaller = replace(before, recompute=True)
            if not is_out_of_memory(error) or smaller.positions < 1:
                base.budget = before
                raise
        # Behind the handler: what the error holds is let go of.
        _free(base)
        base.budget = smaller
        _LOG.warning(
            "%s: out of memory; passes of %d positions from now on%s. An update is as large as before",
            base.checkpoint.name,
            smaller.positions,
            ", every layer computed twice" if smaller.recompute else "",
        )


def _free(base: BaseModel) -> None:
    import torch

    if base.device.type == "cuda":
        torch.cuda.empty_cache()


def _in_order(parts: Sequence[tuple[list[int], torch.Tensor]]) -> torch.Tensor:
    """The losses of several passes in the order of the rows."""
    import torch

    rows = torch.tensor([row for indices, _ in parts for row in indices])
    together = torch.cat([part for _, part in parts])
    return together[rows.argsort().to(together.device)]


def _common(batch: TrainingBatch) -> list[int]:
    """Tokens that all sources begin with, and that none of them ends with."""
    first = min(batch.sources, key=len)
    length = 0
    while length < len(first) - 1 and all(source[length] == first[length] for source in batch.sources):
        length += 1
    return list(first[:length])
