"""What a loss curve says of a training: whether it diverged, was flat, still improved or settled.

Losses of single updates are noisy, since each sees other records, and neighbours may be alike. So
parts are compared and not points, by rank, where a spike is one high value and no more; a difference
also has to be of some size, because over thousands of updates the smallest one is beyond chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

DIVERGED, FLAT, STILL_IMPROVING, SETTLED = "diverged", "flat", "still improving", "settled"

_POINTS = 100  # that a curve is condensed to
_FEWEST = 4  # points in a part that a rank test can say anything of
_ENOUGH = 10  # points in a part, where that leaves four parts: fewer see only the coarsest difference
_BEYOND_CHANCE = 2.3  # deviations: about one in a hundred by chance
_DIVERGED_BY = 0.25  # of the loss at the start
_FELL_BY = 0.01  # of the loss at the start
_GAINS_BY = 0.01  # of what was gained since the start


def course(losses: Sequence[float], validation: Sequence[float] = ()) -> str:
    """The verdict on `losses`, one of each update, and on `validation` losses in their order.

    - 'diverged': the last loss of either is no finite number; or the last tenth is clearly above the
      first, or clearly above the best tenth with more than half of what that one had gained lost
      again; and that by a quarter of the first tenth or more.
    - 'flat': the end isn't clearly below the start, by 1 % of it or more. Fewer than 8 losses always are.
    - 'still improving': the last tenth is clearly below the tenth before it, by 1 % or more of what
      was gained since the start, and the last fifth of `validation` is below the fifth before it.
    - 'settled': anything else, so also where only the training loss goes on falling.

    A tenth has at least ten losses, of short trainings a quarter of them, but never under four.
    Clearly is by Mann and Whitney's rank test at about 1 %. Losses that aren't finite in the middle are
    those of skipped updates and left out. Raises ValueError without losses.
    """
    if not losses:
        raise ValueError("no losses to judge")
    if not math.isfinite(losses[-1]) or (validation and not math.isfinite(validation[-1])):
        return DIVERGED
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 2 * _FEWEST:
        return FLAT
    points = _condensed(finite)
    if _diverged(points):
        return DIVERGED
    if not _fell(finite, points):
        return FLAT
    if _still_falls(points) and not _rises_at_the_end(validation):
        return STILL_IMPROVING
    return SETTLED


def _condensed(losses: Sequence[float]) -> list[float]:
    """Means of runs of equal length, so that what neighbours share counts once."""
    run = max(1, len(losses) // _POINTS)
    # From the end, where it matters; what is left over stands at the start.
    ends = range(len(losses), 0, -run)
    return [fmean(losses[max(0, end - run) : end]) for end in reversed(ends)]


def _diverged(points: Sequence[float]) -> bool:
    first, *_, last = parts = _tenths(points)
    best = min(parts, key=median)
    start, lowest, end = median(first), median(best), median(last)
    above_start = end - start >= _DIVERGED_BY * start and _clearly_below(first, last)
    lost_again = end - lowest > max((start - lowest) / 2, _DIVERGED_BY * start)
    return above_start or (lost_again and _clearly_below(best, last))


def course_sentences(verdict: Mapping[str, Any], kept: str) -> list[str]:
    """What a `verdict` says of it, with which update is `kept`, and of the updates that were skipped."""
    lines = [f"The course of the loss: {verdict['course']}. {kept}"]
    if skipped := verdict["skipped_updates"]:
        lines.append(f"{skipped} updates were skipped, because they weren't finite.")
    return lines


def _fell(losses: Sequence[float], points: Sequence[float]) -> bool:
    """From the first tenth to the last; or from the very first losses, where a quick training is done
    within its first tenth."""
    first, *_, last = _tenths(points)
    return _fell_by_enough(first, last) or _fell_by_enough(losses[:_FEWEST], _tenths(losses)[-1])


def _fell_by_enough(start: Sequence[float], end: Sequence[float]) -> bool:
    return _clearly_below(end, start) and median(start) - median(end) >= _FELL_BY * median(start)


def _still_falls(points: Sequence[float]) -> bool:
    first, *_, last = parts = _tenths(points)
    before = parts[-2]
    gained = median(first) - median(last)
    return _clearly_below(last, before) and median(before) - median(last) >= _GAINS_BY * gained


def _rises_at_the_end(validation: Sequence[float]) -> bool:
    """Few points with little noise, the same records each time: their means are compared."""
    fifth = max(1, len(validation) // 5)
    before, last = validation[-2 * fifth : -fifth], validation[-fifth:]
    return bool(before) and not fmean(last) < fmean(before)


def _tenths(points: Sequence[float]) -> list[Sequence[float]]:
    """Parts of equal length from the end back: tenths, or as many as have enough points, but two."""
    size = max(_FEWEST, min(_ENOUGH, len(points) // 4), len(points) // 10)
    parts = [points[max(0, end - size) : end] for end in range(len(points), 0, -size)]
    return [part for part in reversed(parts) if len(part) == size]


def _clearly_below(lower: Sequence[float], upper: Sequence[float]) -> bool:
    """Whether `lower` has the lower ranks, beyond chance (Mann & Whitney 1947)."""
    pairs = len(lower) * len(upper)
    wins = sum((low < high) + (low == high) / 2 for low in lower for high in upper)
    deviation = math.sqrt(pairs * (len(lower) + len(upper) + 1) / 12)
    return wins - pairs / 2 > _BEYOND_CHANCE * deviation
