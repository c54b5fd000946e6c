"""The verdict on loss curves of a known shape under noise, for several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest

from caikit_pt.tuning.course import course

SEEDS = range(20)
Shape = Callable[[float], float]


def settling(at: float) -> float:
    return 0.4 + 3 * math.exp(-20 * at)


def falling(at: float) -> float:
    return 3 - 2.5 * at


def steady(at: float) -> float:
    return 2.0


def rising(at: float) -> float:
    return 2 + 4 * at


def blowing_up(at: float) -> float:
    return settling(at) + (4 if at > 0.7 else 0)


def losing_what_it_had(at: float) -> float:
    return settling(at) + (2.2 if at > 0.7 else 0)


def curve(shape: Shape, updates: int, noise: float, seed: int) -> list[float]:
    """The shape with noise in proportion to it, as losses of batches have."""
    source = Random(seed)
    return [max(1e-4, shape(update / updates) * (1 + source.gauss(0, noise))) for update in range(updates)]


def share(verdict: str, shape: Shape, updates: int, noise: float) -> float:
    """How often the verdict is given."""
    return sum(course(curve(shape, updates, noise, seed)) == verdict for seed in SEEDS) / len(SEEDS)


@pytest.mark.parametrize(
    ("shape", "verdict"),
    [
        (steady, "flat"),
        (settling, "settled"),
        (falling, "still improving"),
        (rising, "diverged"),
        (blowing_up, "diverged"),
        (losing_what_it_had, "diverged"),
    ],
)
@pytest.mark.parametrize(("updates", "noise"), [(20, 0.05), (60, 0.05), (300, 0.2), (3000, 0.3)])
def test_a_curve_is_seen_through_its_noise(shape: Shape, verdict: str, updates: int, noise: float) -> None:
    assert share(verdict, shape, updates, noise) >= 0.9


@pytest.mark.parametrize("updates", [20, 60, 300])
def test_much_noise_alone_is_no_course(updates: int) -> None:
    assert share("flat", steady, updates, 0.6) >= 0.85
    assert share("diverged", settling, updates, 0.6) <= 0.05


def test_a_spike_is_no_divergence() -> None:
    for place in (5, 50, 95, 98):
        losses = curve(settling, 100, 0.05, 1)
        losses[place] = 1000.0
        assert course(losses) == "settled"


@pytest.mark.parametrize("updates", [300, 3000])
def test_what_is_learnt_in_the_first_updates_counts(updates: int) -> None:
    losses = [0.5 + 8 * math.exp(-update / 4) for update in range(updates)]
    noise = Random(1)
    assert course([loss * (1 + noise.gauss(0, 0.1)) for loss in losses]) == "settled"


def test_a_fall_too_small_to_matter_is_none() -> None:
    assert course([2 - 0.005 * update / 1000 for update in range(1000)]) == "flat"
    slowly = [0.4 + 3 * math.exp(-update / 50) - 1e-6 * update for update in range(1000)]
    assert course(slowly) == "settled"


def test_a_rise_too_small_to_matter_is_no_divergence() -> None:
    assert course([2 + 0.2 * update / 1000 for update in range(1000)]) == "flat"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 1.0, 0.5] * 10])
def test_an_end_that_is_no_number_is_divergence(bad: float, losses: list[float]) -> None:
    assert course([*losses, bad]) == "diverged"
    assert course([*losses, 1.0], [1.0, bad]) == "diverged"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_skipped_updates_change_nothing(bad: float) -> None:
    for shape, verdict in ((settling, "settled"), (falling, "still improving"), (steady, "flat")):
        losses = curve(shape, 100, 0.02, 1)
        losses[50] = losses[97] = bad
        assert course(losses) == verdict


@pytest.mark.parametrize(
    ("validation", "verdict"),
    [
        ([], "still improving"),
        ([2.0], "still improving"),
        ([2.0, 1.0], "still improving"),
        ([1.0, 2.0], "settled"),
        ([3.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5], "still improving"),
        ([3.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.9, 1.0, 1.2, 1.4], "settled"),
        ([3.0, 2.0] + [1.0] * 8, "settled"),
    ],
)
def test_only_what_helps_on_validation_records_is_improvement(validation: list[float], verdict: str) -> None:
    assert course(curve(falling, 100, 0.02, 1), validation) == verdict


@pytest.mark.parametrize("updates", range(1, 30))
def test_few_losses_show_nothing_and_some_more_do(updates: int) -> None:
    assert course([2.0] * updates) == "flat"
    falls = [5 / (1 + update) for update in range(updates)]
    assert course(falls) == ("flat" if updates < 8 else "still improving")
    assert course(falls[::-1]) == ("flat" if updates < 8 else "diverged")


def test_a_loss_of_zero_is_settled() -> None:
    assert course([3.0] * 10 + [0.0] * 90) == "settled"
    assert course([0.0] * 100) == "flat"


def test_without_losses_there_is_no_course() -> None:
    with pytest.raises(ValueError, match="no losses"):
        course([])
