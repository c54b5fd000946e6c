"""Means over seeds with the 95 % that Student's t leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.stats import t

from bench.quality.mean import Mean, mean

_OUTSIDE = 0.05


def interval(values: Sequence[float]) -> Mean | None:
    """Their mean, with half of its 95 % interval as the error; None without values."""
    found = mean(values)
    if found is None or found.error is None:
        return found
    return Mean(found.value, found.error * float(t.ppf(1 - _OUTSIDE / 2, len(values) - 1)))


def lead(first: Mapping[int, float], second: Mapping[int, float]) -> Mean | None:
    """The same of `first` less `second`, seed by seed, over the seeds that both have."""
    return interval([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
