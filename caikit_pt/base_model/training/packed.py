"""Rows one behind another: places, rounding, and the losses of what is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.row import TrainingBatch

# From so many places on, to such a multiple.
_MULTIPLES = ((512, 64), (256, 32), (0, 16))


def places(lengths: Sequence[int], before: Sequence[int] | None = None) -> Tensor:
    """The place [N] of each packed position in its row, `before` positions from the row's start."""
    starts = before or [0] * len(lengths)
    return torch.cat(
        [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    )


def rounded(places: Tensor, rounds: bool, more: int = 0, least: int = 0) -> Tensor:
    """`places` [N] and, if it `rounds`, behind them `more` up to a multiple.

    They are nobody's, and one at least where there are to be any. Kernels that build code for each number of
    rows build it for few then, for a few percent more rows.
    """
    if not rounds:
        return places
    least = min(least, 1)
    multiple = next(multiple for fewest, multiple in _MULTIPLES if len(places) >= fewest)
    return torch.nn.functional.pad(places, (0, least - (len(places) + least) % -multiple), value=more)


def target_positions(rows: Sequence[Any], batch: TrainingBatch) -> Tensor:
    """Where packed rows that end with their targets predict these, [R]."""
    ends = accumulate(map(len, rows))
    pairs = zip(ends, batch.targets, strict=True)
    return torch.cat([torch.arange(end - len(target), end) for end, target in pairs])


def losses_of_rows(logits: Tensor, batch: TrainingBatch) -> Tensor:
    """The summed cross-entropy [B] of each row; the logits [R, V] begin with those at all target tokens."""
    labels = torch.tensor([token for target in batch.targets for token in target], device=logits.device)
    rows = torch.tensor(
        [row for row, target in enumerate(batch.targets) for _ in target], device=logits.device
    )
    losses = torch.nn.functional.cross_entropy(logits[: len(labels)].float(), labels, reduction="none")
    return losses.new_zeros(len(batch.targets)).index_add(0, rows, losses)
