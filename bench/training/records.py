"""Records to train on: as many tokens as real short texts have, and no meaning."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

# What caikit-nlp pads every row to.
MAX_SOURCE, MAX_TARGET = 256, 128
_MEDIAN_SOURCE, _SIGMA, _MIN_SOURCE = 40, 0.8, 3
_SHORT_TARGETS = range(1, 9)
_MEAN_LONG_TARGET, _SPREAD_LONG_TARGET, _LONG_TARGETS = 60, 15, (30, 127)
_FIRST_ORDINARY_TOKEN = 10  # the ids before it are special ones


@dataclass(frozen=True, slots=True)
class Record:
    """Token ids. The target holds its end token."""

    source: list[int]
    target: list[int]

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return len(self.source) + len(self.target)


def make_records(count: int, long: bool, vocabulary: int, seed: int = 0) -> list[Record]:
    """`count` records in random order; `long` is of their targets.

    Lengths are quantiles, not draws, so that a few records stand for many: sources log-normal with
    median 40 and at most 256 tokens, targets 1 to 8 tokens or about 60.
    """
    chance = random.Random(seed)
    sources = [_source_length(share) for share in _shares(count)]
    targets = [_long_target(share) if long else _short_target(share) for share in _shares(count)]
    chance.shuffle(sources)
    chance.shuffle(targets)

    def tokens(length: int) -> list[int]:
        return [chance.randrange(_FIRST_ORDINARY_TOKEN, vocabulary) for _ in range(length)]

    return [Record(tokens(source), tokens(target)) for source, target in zip(sources, targets, strict=True)]


def batches_of(records: Sequence[Record], size: int) -> list[list[Record]]:
    """`records` in their order, cut into slices of `size`."""
    return [list(records[start : start + size]) for start in range(0, len(records), size)]


def _shares(count: int) -> list[float]:
    return [(index + 0.5) / count for index in range(count)]


def _source_length(share: float) -> int:
    drawn = round(_MEDIAN_SOURCE * math.exp(_SIGMA * NormalDist().inv_cdf(share)))
    return min(MAX_SOURCE, max(_MIN_SOURCE, drawn))


def _short_target(share: float) -> int:
    return _SHORT_TARGETS[int(share * len(_SHORT_TARGETS))]


def _long_target(share: float) -> int:
    drawn = round(NormalDist(_MEAN_LONG_TARGET, _SPREAD_LONG_TARGET).inv_cdf(share))
    shortest, longest = _LONG_TARGETS
    return min(longest, max(shortest, drawn))
