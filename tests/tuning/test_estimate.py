"""Estimates against published numbers, and their intervals against what they promise: 95 times in 100."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean

import pytest

from caikit_pt.tuning.estimate import (
    Estimate,
    bootstrap,
    bootstraps,
    difference,
    mean,
    proportion,
    ratio,
    sign_test,
)

TRIALS = 400


def coverage(draw: Callable[[Random], Estimate], truth: float) -> float:
    """How often the interval holds the truth."""
    source = Random(11)
    estimates = [draw(source) for _ in range(TRIALS)]
    return fmean(estimate.low <= truth <= estimate.high for estimate in estimates)


@pytest.mark.parametrize(
    ("successes", "records", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_a_proportion_has_the_interval_that_newcombe_published(
    successes: int, records: int, low: float, high: float
) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    estimate = proportion([1.0] * successes + [0.0] * (records - successes))
    assert estimate.value == successes / records
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("records", range(1, 60))
def test_a_proportion_lies_in_its_interval_and_that_in_0_to_1(records: int) -> None:
    for successes in range(records + 1):
        estimate = proportion([1.0] * successes + [0.0] * (records - successes))
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.high > estimate.low


@pytest.mark.parametrize(
    ("records", "student"),
    [(2, 12.706), (3, 4.303), (10, 2.262), (11, 2.228), (16, 2.131), (31, 2.042), (121, 1.980)],
)
def test_a_mean_has_students_factor(records: int, student: float) -> None:
    values = [float(number) for number in range(records)]
    deviation = math.sqrt((records + 1) / 12)  # of the mean of 0, 1, ..., records - 1
    estimate = mean(values)
    assert estimate.value == (records - 1) / 2
    assert estimate.high - estimate.value == pytest.approx(student * deviation, rel=5e-4)
    assert estimate.value - estimate.low == pytest.approx(student * deviation, rel=5e-4)


@pytest.mark.parametrize("records", [3, 8, 40])
def test_a_mean_keeps_its_promise(records: int) -> None:
    assert 0.92 <= coverage(lambda source: mean([source.gauss(2, 3) for _ in range(records)]), 2) <= 0.98


@pytest.mark.parametrize("records", [10, 40])
def test_a_proportion_keeps_its_promise(records: int) -> None:
    def draw(source: Random) -> Estimate:
        return proportion([float(source.random() < 0.85) for _ in range(records)])

    assert 0.9 <= coverage(draw, 0.85) <= 0.99


@pytest.mark.parametrize("records", [20, 60, 200])
def test_a_ratio_keeps_its_promise_on_skewed_losses_of_targets_of_all_lengths(records: int) -> None:
    def draw(source: Random) -> Estimate:
        counts = [float(source.randint(1, 20)) for _ in range(records)]
        return ratio([count * source.gammavariate(2, 0.4) for count in counts], counts)

    assert 0.9 <= coverage(draw, 0.8) <= 0.98


def test_a_ratio_is_the_mean_over_tokens_and_not_over_records() -> None:
    assert ratio([9.0, 1.0], [9.0, 1.0]).value == 1.0
    assert ratio([8.0, 6.0], [1.0, 6.0]).value == 2.0


def test_a_ratio_by_hand() -> None:
    """Sums 1, 2, 6 over counts 1, 2, 3: the ratio is 1.5, the residuals are -0.5, -1 and 1.5."""
    deviation = math.sqrt((0.25 + 1 + 2.25) * 3 / 2) / 6
    estimate = ratio([1.0, 2.0, 6.0], [1.0, 2.0, 3.0])
    assert estimate.value == 1.5
    assert math.log(estimate.high / 1.5) == pytest.approx(4.3027 * deviation / 1.5)
    assert math.log(1.5 / estimate.low) == pytest.approx(4.3027 * deviation / 1.5)


def test_a_ratio_of_anything_may_pass_zero() -> None:
    estimate = ratio([-1.0, 1.0, 0.5], [1.0, 1.0, 1.0])
    same = mean([-1.0, 1.0, 0.5])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((same.value, same.low, same.high))


def test_a_loss_of_zero_has_an_interval() -> None:
    assert ratio([0.0, 0.0], [3.0, 4.0]) == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("estimate", [mean([0.5]), ratio([3.0], [2.0])])
def test_one_record_leaves_everything_open(estimate: Estimate) -> None:
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert estimate.within(0.0, 1.0).low == 0.0
    assert json.loads(json.dumps(estimate.to_dict(), allow_nan=False))["high"] is None


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_no_number_has_no_interval(bad: float) -> None:
    for estimate in (mean([1.0, bad]), ratio([1.0, bad], [1.0, 1.0])):
        assert not math.isfinite(estimate.value)
        assert estimate.to_dict() == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    "estimate",
    [
        lambda: proportion([]),
        lambda: mean([]),
        lambda: ratio([], []),
        lambda: ratio([1.0], [0.0]),
        lambda: ratio([1.0, 2.0], [1.0]),
        lambda: bootstrap(lambda _: 0.0, 0, 1),
    ],
)
def test_nothing_is_estimated_from_nothing(estimate: Callable[[], Estimate]) -> None:
    with pytest.raises(ValueError, match=r"records|count"):
        estimate()


def test_the_bootstrap_agrees_with_the_formula() -> None:
    source = Random(3)
    values = [source.gauss(0, 1) for _ in range(300)]
    drawn = bootstrap(lambda indices: fmean(values[index] for index in indices), len(values), 1)
    formula = mean(values)
    assert drawn.value == formula.value
    assert drawn.high - drawn.low == pytest.approx(formula.high - formula.low, rel=0.15)


def test_the_bootstrap_is_seeded_and_leaves_the_global_generator_alone() -> None:
    def average(indices: Sequence[int]) -> float:
        return fmean(math.sqrt(index) for index in indices)

    state = random.getstate()
    assert bootstrap(average, 30, 1) == bootstrap(average, 30, 1)
    assert bootstrap(average, 30, 1) != bootstrap(average, 30, 2)
    assert random.getstate() == state


@pytest.mark.parametrize(("records", "most"), [(5, 1001), (1000, 1001), (8000, 251)])
def test_the_bootstrap_looks_at_few_resamples_where_they_are_dear(records: int, most: int) -> None:
    calls = []

    def statistic(indices: Sequence[int]) -> float:
        calls.append(len(indices))
        return 0.0

    bootstrap(statistic, records, 1)
    assert len(calls) <= most
    assert set(calls) == {records}


def test_the_bootstrap_never_leaves_its_value_out() -> None:
    """Resamples repeat records: they hold fewer different ones, always."""
    estimate = bootstrap(lambda indices: float(len(set(indices))), 50, 1)
    assert estimate.value == estimate.high == 50
    assert estimate.low < 40


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.93, 0.88, 0.96), "0.93 [0.88, 0.96]"),
        (Estimate(0.00431, 0.0042, 0.0044), "0.0043 [0.0042, 0.0044]"),
        (Estimate(2.0, -math.inf, math.inf), "2.00 [-inf, inf]"),
        (Estimate(12.345, 2.0, 99.0), "12.35 [2.00, 99.00]"),
        (Estimate(1.0, 1.0, 1.0), "1.00 [1.00, 1.00]"),
    ],
)
def test_an_estimate_reads_well(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def less(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """The mean of `one` less that of `other`, of the same records."""
    gains = [first - second for first, second in zip(one, other, strict=True)]
    found = bootstrap(lambda drawn: fmean(map(gains.__getitem__, drawn)), len(gains), 5)
    return difference(found, len(gains), bounded=True)


def test_a_paired_difference_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are right on 0.7 and 0.52 of all records, more often on the same ones than by chance."""
    monkeypatch.setattr("caikit_pt.tuning.estimate._RESAMPLES", 200)

    def draw(source: Random) -> Estimate:
        easy = [source.random() for _ in range(60)]
        one = [float(ease < 0.7) for ease in easy]
        other = [float(source.random() < 0.6 if source.random() < 0.2 else ease < 0.5) for ease in easy]
        return less(one, other)

    assert 0.9 <= coverage(draw, 0.7 - 0.52) <= 0.99


def test_a_paired_difference_is_narrower_than_one_of_strangers() -> None:
    """Where both are right on the same records."""
    found = less([1.0] * 60 + [0.0] * 40, [1.0] * 55 + [0.0] * 45)
    assert found.value == pytest.approx(0.05)
    assert 0 < found.low < found.high < 0.11


@pytest.mark.parametrize(("one", "other"), [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.3, 0.3)])
def test_records_that_show_no_difference_are_no_proof_of_none(one: float, other: float) -> None:
    for records in (1, 10, 500):
        found = less([one] * records, [other] * records)
        unseen = 1.959964**2 / (records + 1.959964**2)
        assert found.value == one - other
        assert found.low == pytest.approx(max(-1, one - other - unseen * (1 + abs(one - other))))
        assert found.high == pytest.approx(min(1, one - other + unseen * (1 + abs(one - other))))


def test_a_difference_of_losses_has_no_bounds_and_of_one_record_no_interval() -> None:
    assert difference(Estimate(4.0, 3.0, 5.0), 2, bounded=False) == Estimate(4.0, 3.0, 5.0)
    assert difference(Estimate(3.0, 3.0, 3.0), 1, bounded=False) == Estimate(3.0, -math.inf, math.inf)


def test_several_statistics_are_of_the_same_resamples() -> None:
    found = bootstraps(lambda drawn: {"mean": fmean(drawn), "twice": 2 * fmean(drawn)}, 20, 5)
    assert found["mean"] == bootstrap(fmean, 20, 5)
    assert found["twice"].low == pytest.approx(2 * found["mean"].low)


@pytest.mark.parametrize(
    ("wins", "losses", "probability"),
    [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 2 / 32), (8, 2, 2 * 56 / 1024), (5000, 5000, 1.0)],
)
def test_how_likely_a_split_is_by_chance(wins: int, losses: int, probability: float) -> None:
    assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(probability)


def test_a_split_of_many_records() -> None:
    assert 0.3 < sign_test(5000, 5100) < 0.33
    assert sign_test(0, 3000) < 1e-300
