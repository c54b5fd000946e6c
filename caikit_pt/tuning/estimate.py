"""Numbers measured on a few records, each with the interval that the few leave open.

An interval holds the value that endlessly many records of the same kind would give, 95 times in 100.
Knows nothing of what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

_UPPER = 0.975  # the quantile above which half of the missing 5 % lies
_Z = NormalDist().inv_cdf(_UPPER)
# Student's t at that quantile for 1, 2, ... degrees of freedom, where the expansion is too coarse.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
_RESAMPLES = 1000
_FEWEST_RESAMPLES = 200
_DRAWS = 2_000_000  # over all resamples: a second at the most, until there are the fewest
_ROUNDING = 1e-9  # a narrower interval is a point
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval. Infinite limits say that there are too few records for any."""

    value: float
    low: float
    high: float

    def within(self, low: float, high: float) -> Estimate:
        """The same, where the limits are known to lie between `low` and `high`."""
        return Estimate(self.value, max(self.low, low), min(self.high, high))

    def to_dict(self) -> dict[str, float | None]:
        """For JSON, which knows no infinity and no NaN: these are None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}

    def __str__(self) -> str:
        """Such as `0.93 [0.88, 0.96]`; more decimals where the interval is narrower than these."""
        width = self.high - self.low
        decimals = 2
        if math.isfinite(width) and width > 0:
            decimals = min(max(2, math.floor(-math.log10(width)) + 1), 6)
        return f"{self.value:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def proportion(successes: Sequence[float]) -> Estimate:
    """The share of records that succeeded (1, others 0), with the score interval of Wilson 1927.

    It stays within 0 and 1, and doesn't shrink to a point where all records succeed or none.
    Raises ValueError without records.
    """
    count = _counted(successes)
    share = fmean(successes)
    shrink = 1 / (1 + _Z**2 / count)
    middle = shrink * (share + _Z**2 / (2 * count))
    margin = shrink * _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    # Rounding alone would leave 1.0 of all records a hair above its interval.
    return Estimate(share, min(middle - margin, share), max(middle + margin, share)).within(0.0, 1.0)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of `values`, with the interval of Student 1908.

    With few values it keeps its promise, where a percentile bootstrap is too narrow (Hesterberg 2015,
    "What Teachers Should Know about the Bootstrap", on narrowness bias). One value has no interval.
    Raises ValueError without values.
    """
    count = _counted(values)
    if count == 1 or not all(map(math.isfinite, values)):
        return _unknown(fmean(values))
    return _around(fmean(values), stdev(values) / math.sqrt(count), count)


def ratio(sums: Sequence[float], counts: Sequence[float]) -> Estimate:
    """The total of `sums` over the total of `counts`, such as loss per target token over records.

    Records are what varies, since the tokens of one belong together. The delta method for ratio
    estimators gives the deviation (Cochran 1977, "Sampling Techniques", chapter 6: the residuals
    sum - ratio * count), Student's t its factor. Where no sum is negative the interval is that of the
    logarithm, which doesn't pass zero and is wider towards the side where rare large losses pull.
    One record has no interval. Raises ValueError without records, for lists that don't match, and
    where the counts have no positive total.
    """
    records, total = _counted(sums), sum(counts)
    if len(counts) != records or total <= 0:
        raise ValueError("every sum needs a count, and the counts a positive total")
    value = sum(sums) / total
    if records == 1 or not math.isfinite(value):
        return _unknown(value)
    residuals = (one - value * count for one, count in zip(sums, counts, strict=True))
    deviation = math.sqrt(sum(residual**2 for residual in residuals) * records / (records - 1)) / total
    if value <= 0 or min(sums) < 0:
        return _around(value, deviation, records)
    factor = math.exp(min(_student(records - 1) * deviation / value, 700.0))
    return Estimate(value, value / factor, value * factor)


def bootstrap(statistic: Callable[[Sequence[int]], float], n: int, seed: int) -> Estimate:
    """`statistic` of the record indices 0..n-1, with its percentile interval (Efron 1979).

    For statistics that have no formula. The records are drawn anew, with replacement, 1,000 times, or
    fewer times where there are thousands; the same seed gives the same interval.
    Raises ValueError without records.
    """
    return bootstraps(lambda indices: {"": statistic(indices)}, n, seed)[""]


def bootstraps(
    statistics: Callable[[Sequence[int]], Mapping[_Key, float]], n: int, seed: int
) -> dict[_Key, Estimate]:
    """`bootstrap` of several statistics of the same resamples."""
    if n < 1:
        raise ValueError("no records to estimate from")
    random, records = Random(seed), range(n)
    resamples = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _DRAWS // n))
    seen = [statistics(random.choices(records, k=n)) for _ in range(resamples)]
    cut = round(resamples * (1 - _UPPER))
    estimates = {}
    for name, value in statistics(records).items():
        ordered = sorted(one[name] for one in seen)
        # Resamples repeat records, which biases some statistics: the value itself is never left out.
        estimates[name] = Estimate(value, min(ordered[cut], value), max(ordered[-cut - 1], value))
    return estimates


def difference(found: Estimate, n: int, bounded: bool) -> Estimate:
    """The bootstrap of a difference on the same `n` records, with what these are too few to show.

    `bounded` says that it is one of two shares, or of scores between 0 and 1. Where no resample of these
    says otherwise than all records do, that is no proof: a difference that none of n records showed may be
    one of up to z^2 / (n + z^2) of them all (Wilson 1927; of no difference at all it is the interval of
    Tango 1998). Of other numbers, one record says nothing.
    """
    if not bounded:
        return found if n > 1 else _unknown(found.value)
    if found.high - found.low > _ROUNDING:
        return found
    margin = _Z**2 / (n + _Z**2) * (1 + abs(found.value))
    return Estimate(found.value, found.value - margin, found.value + margin).within(-1.0, 1.0)


def sign_test(wins: int, losses: int) -> float:
    """The probability of a split as uneven or more so where either side is as likely (exact, two-sided).

    Of records that one side alone has right it is McNemar's test (McNemar 1947, exact form).
    """
    count, few = wins + losses, min(wins, losses)
    ways, tail = 1, 0
    for number in range(few + 1):
        tail += ways
        ways = ways * (count - number) // (number + 1)
    # Whole numbers of any size, divided without overflow.
    return min(1.0, 2 * tail / (1 << count))


def _counted(values: Sequence[float]) -> int:
    if not values:
        raise ValueError("no records to estimate from")
    return len(values)


def _around(value: float, deviation: float, records: int) -> Estimate:
    margin = _student(records - 1) * deviation
    return Estimate(value, value - margin, value + margin)


def _unknown(value: float) -> Estimate:
    return Estimate(value, -math.inf, math.inf)


def _student(freedom: int) -> float:
    """Student's t at 97.5 %: tabulated, then by Abramowitz & Stegun 26.7.5 (right to 2e-4)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
