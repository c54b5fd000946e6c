"""Trials that are made one after the other, in one process or several, and none twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from bench.quality.results import Results
from bench.quality.trial import Outcome, Trial


class Attempted(Protocol):
    """A trial that can be made; `basis` stands for all that its outcome depends on."""

    @property
    def trial(self) -> Trial:
        """What is tried."""

    @property
    def basis(self) -> str:
        """A short hash."""

    def make(self) -> Outcome:
        """Trains and scores."""


OneAttempt = TypeVar("OneAttempt", bound=Attempted)


def of_part(attempts: Sequence[OneAttempt], part: tuple[int, int]) -> list[OneAttempt]:
    """Those of a process: by chance, as slow and fast ones take turns, and the same in every run.

    All contenders of a model, a task and a seed are of one, for some share an outcome.
    """
    number, of = part
    return [one for one in attempts if _drawn(one.trial) % of == number - 1]


def make_missing(
    attempts: Sequence[Attempted],
    results: Results,
    minutes: float | None,
    is_selected: Callable[[str], bool] = lambda _: False,
) -> None:
    """What isn't there yet, until the time is up. Of a contender that `is_selected` an outcome has to have an
    accuracy on the selection records."""
    started = time.monotonic()
    for one in attempts:
        if minutes is not None and time.monotonic() - started >= 60 * minutes:
            return
        results.read()
        if results.get(one.trial, one.basis):
            continue
        selected = is_selected(one.trial.contender)
        results.add(results.of_equal(one.trial, one.basis, selected) or one.make())


def part(text: str) -> tuple[int, int]:
    """Of `1/2` the 1 and the 2. Raises ValueError for what isn't a part."""
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


def _drawn(trial: Trial) -> int:
    return int.from_bytes(hashlib.sha256(repr(replace(trial, contender="")).encode()).digest()[:8])
