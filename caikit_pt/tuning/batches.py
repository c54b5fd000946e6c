"""The order of the examples, and how they are cut: epochs of windows of forward passes.

A window is what one update sees, batch_size times accumulate_steps examples. How a window is cut into
forward passes changes nothing but time and memory.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch

if TYPE_CHECKING:
    import torch

Window = list[int]
# Windows that are sorted by length together, as transformers' LengthGroupedSampler has it.
_BUCKET_WINDOWS = 50


def updates_per_epoch(examples: int, window: int) -> int:
    """Windows in an epoch; the last may be smaller."""
    return math.ceil(examples / window)


def windows(
    examples: int, window: int, generator: torch.Generator, lengths: Sequence[int] | None = None
) -> Iterator[Window]:
    """One epoch in a new order: windows of up to `window` indices.

    With `lengths`, examples of much the same length share a window, in a random order of windows; for
    models whose rows have to be padded. Without, a window is a fair draw.
    """
    import torch

    order = torch.randperm(examples, generator=generator).tolist()
    if lengths is None:
        yield from _slices(order, window)
        return
    bucketed = [
        slice
        for bucket in _slices(order, window * _BUCKET_WINDOWS)
        for slice in _slices(sorted(bucket, key=lambda index: -lengths[index]), window)
    ]
    for number in torch.randperm(len(bucketed), generator=generator).tolist():
        yield bucketed[number]


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass takes of a larger batch: which rows, and these as a batch."""

    rows: list[int]
    batch: TrainingBatch


def passes(
    batch: TrainingBatch, base: BaseModel, prompts: Sequence[PromptTensors], budget: Budget
) -> list[Pass]:
    """`batch` cut into forward passes that keep to `budget`, rows of one length together."""
    owners = batch.prompt_of_rows
    costs = [
        base.training.positions(len(source), len(target), prompts[owner])
        for source, target, owner in zip(batch.sources, batch.targets, owners, strict=True)
    ]
    most_tokens = budget.logits // base.weights.vocabulary
    cut: list[list[int]] = []
    positions = tokens = longest = most = 0
    for row in sorted(range(len(costs)), key=lambda row: -costs[row]):
        cost, target = costs[row], len(batch.targets[row])
        rows = len(cut[-1]) + 1 if cut else 1
        if base.training.trains_packed:
            positions, tokens = positions + cost, tokens + target
        else:
            longest, most = max(longest, cost), max(most, target)
            positions, tokens = rows * longest, rows * most
        if not cut or positions > budget.positions or tokens > most_tokens:
            cut.append([])
            positions, tokens = longest, most = cost, target
        cut[-1].append(row)
    return [
        Pass(
            rows,
            TrainingBatch(
                [batch.sources[row] for row in rows],
                [batch.targets[row] for row in rows],
                [owners[row] for row in rows],
            ),
        )
        for rows in cut
    ]


def shares(costs: Sequence[int], count: int) -> list[range]:
    """`count` runs of rows, all in their order, whose `costs` come to much the same; some may be empty.

    An order that knows nothing of lengths gives each share long rows and short ones.
    """
    sums = [0, *accumulate(cost * count for cost in costs)]

    def cut(number: int) -> int:
        aim = sums[-1] // count * number
        above = bisect_left(sums, aim)
        nearer_below = above and aim - sums[above - 1] < sums[above] - aim
        return above - 1 if nearer_below else above

    return [range(*ends) for ends in pairwise([0, *map(cut, range(1, count)), len(costs)])]


def _slices(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
