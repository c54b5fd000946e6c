"""The numbers that are tracked, with the names that transformers' Trainer gave them where it has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """A number at an update; `time` is seconds since 1970."""

    name: str
    value: float
    step: int
    time: float


class Told:
    """What has been told already, by the last step of each name: an update made again has its first loss."""

    def __init__(self, steps: Mapping[str, int]) -> None:
        self._steps = dict(steps)

    def new(self, points: Iterable[Point]) -> list[Point]:
        """Those that come behind what is known, and behind one another."""
        steps = dict(self._steps)
        found = []
        for point in points:
            if point.step > steps.get(point.name, -1):
                steps[point.name] = point.step
                found.append(point)
        return found

    def add(self, points: Iterable[Point]) -> None:
        """They have been told now."""
        self._steps.update({point.name: point.step for point in points})


def of_progress(
    losses: Iterable[tuple[int, float | None]], learning_rate: float, samples_per_second: float, time: float
) -> list[Point]:
    """The losses of some updates (None: not finite, which is left out), and where the last of them stands."""
    known = [(int(step), loss) for step, loss in losses if loss is not None and math.isfinite(loss)]
    points = [Point("train/loss", loss, step, time) for step, loss in known]
    if points:
        last = points[-1].step
        points.append(Point("train/learning_rate", learning_rate, last, time))
        points.append(Point("train/samples_per_second", samples_per_second, last, time))
    return points


def of_validation(step: int, scores: Mapping[str, float | None], time: float) -> list[Point]:
    """Loss, perplexity and metrics."""
    return [Point(f"eval/{name}", value, step, time) for name, value in scores.items() if value is not None]


def of_verdict(verdict: Mapping[str, Any], time: float) -> list[Point]:
    """What untuned base, initial and tuned prompt are worth, at the update that is kept."""
    step = verdict.get("kept", {}).get("step", 0)
    return [
        Point(f"verdict/{prompt}/{name}", score["value"], step, time)
        for prompt, scores in verdict.get("validation", {}).items()
        for name, score in scores.items()
        if isinstance(score, Mapping) and score.get("value") is not None
    ]
