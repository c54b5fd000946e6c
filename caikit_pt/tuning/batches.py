"""The order of the examples: epochs of windows of batches. A window is what one update sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Window = list[list[int]]


def updates_per_epoch(examples: int, batch_size: int, accumulate_steps: int) -> int:
    """Windows in an epoch; the last may be smaller."""
    return math.ceil(examples / (batch_size * accumulate_steps))


def windows(
    examples: int, batch_size: int, accumulate_steps: int, generator: torch.Generator
) -> Iterator[Window]:
    """One epoch in a new order: windows of up to `accumulate_steps` batches of indices."""
    import torch

    order = torch.randperm(examples, generator=generator).tolist()
    size = batch_size * accumulate_steps
    for start in range(0, examples, size):
        window = order[start : start + size]
        yield [window[at : at + batch_size] for at in range(0, len(window), batch_size)]
