"""Means over seeds, with what so few of them leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error, which is None for a single value."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.error is None else f" ± {self.error:.1f}")

    @property
    def signed(self) -> str:
        """The same with its sign."""
        return ("+" if f"{self.value:.1f}"[0] != "-" else "") + str(self)


def mean(values: Sequence[float]) -> Mean | None:
    """None without values."""
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(fmean(values), error)


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Mean | None:
    """The mean of `first` less `second`, seed by seed, over the seeds that both have."""
    return mean([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
