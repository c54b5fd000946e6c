"""Rows one behind another: places, rounding, and the losses of what is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.spans import Bins
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
    return before_ends(list(accumulate(map(len, rows))), batch.targets)


def before_ends(ends: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
    """The last positions before each of `ends`, one for each token of its target: [L] (int64)."""
    pairs = zip(ends, targets, strict=True)
    return torch.cat([torch.arange(end - len(target), end) for end, target in pairs])


def labels_of(batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """All target tokens one behind another, and the row that each is of: [L] and [L] (int64)."""
    lengths = torch.tensor(list(map(len, batch.targets)))
    tokens = torch.tensor([token for target in batch.targets for token in target])
    return tokens, torch.repeat_interleave(torch.arange(len(lengths)), lengths)


def asking(bins: Bins, side: int, predicting: Tensor) -> Tensor:
    """Positions [n, Q] of a side of `bins` with all of `predicting` [L] (int64): as many of each bin.

    A bin's own ones are first, in their order; the others are any, each once: what is there twice would get
    its gradient twice.
    """
    size = bins.sizes[side]
    others = torch.ones(bins.count * size, dtype=torch.uint8)
    others[predicting] = 0
    others = others.view(bins.count, size)
    most = size - int(others.sum(dim=1).min())
    return others.argsort(dim=1, stable=True)[:, :most] + size * torch.arange(bins.count)[:, None]
