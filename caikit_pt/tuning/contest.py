"""Who trains side by side in one training, when the worse of them leave, and by what they are judged."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.trial import Trial


@dataclass(frozen=True, slots=True)
class Entrant:
    """Whom a contest begins with: its parameters, and the rows that it starts from where these don't say."""

    parameters: TuningParameters
    initial: InitialPrompt | None = None


class Contest(ABC):
    """`entrants`, the first of whom has the benefit of the doubt, and after which update how many of them go
    on; 0: before the first. `errors`: how many standard errors the first has to be worse by."""

    errors: float

    def __init__(self, entrants: Sequence[Entrant], rungs: Mapping[int, int]) -> None:
        self.entrants, self.rungs = entrants, rungs

    @abstractmethod
    def rows(self, candidates: Sequence[Candidate], step: int) -> list[list[float]]:
        """Of each candidate the losses that it is judged by after update `step`."""

    @abstractmethod
    def loss(self, rows: Sequence[float]) -> float:
        """What these come to, nats a target token."""

    @abstractmethod
    def told(self, trials: Sequence[Trial], kept: Trial) -> dict[str, Any]:
        """Plain values for the verdict: what became of all `trials`."""

    def decided(
        self, candidates: Sequence[Candidate], rows: Sequence[Sequence[float]], kept: Sequence[int]
    ) -> None:
        """Hears which of `candidates` go on, best first, and by what."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of its decisions."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was."""
        return


class Alone(Contest):
    """No contest."""

    errors = 0.0

    def __init__(self, entrant: Entrant) -> None:
        super().__init__([entrant], {})

    def rows(self, candidates: Sequence[Candidate], step: int) -> list[list[float]]:
        raise AssertionError("nobody leaves")

    def loss(self, rows: Sequence[float]) -> float:
        raise AssertionError("nobody is judged")

    def told(self, trials: Sequence[Trial], kept: Trial) -> dict[str, Any]:
        return {}


def survivors(
    rows: Sequence[Sequence[float]], losses: Sequence[float], left: int, favoured: int | None, errors: float
) -> list[int]:
    """The numbers of the `left` candidates that go on, best first, by their `losses`.

    The `favoured` one, what would be trained without a contest, has the benefit of the doubt: it goes on
    unless the last of the others that would is better by more than so many standard `errors` of the
    difference over the rows, or has less than half of its loss. `rows` has, for each candidate, what it is
    judged by, record by record or update by update.
    """
    order = sorted(range(len(losses)), key=lambda number: ranked(losses[number]))
    kept = order[:left]
    if (
        favoured is not None
        and favoured not in kept
        and not _clearly_worse(rows[favoured], rows[kept[-1]], errors)
    ):
        kept[-1] = favoured
    return kept


def difference(rows: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """By how much the mean of `rows` lies above that of `others`, and the standard error of that: infinite by
    a single row."""
    differences = [one - other for one, other in zip(rows, others, strict=True)]
    count = len(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else math.inf
    return statistics.fmean(differences), error


def _clearly_worse(rows: Sequence[float], others: Sequence[float], errors: float) -> bool:
    """Whether the mean of `rows` lies above that of `others` by more than chance, or is twice as large."""
    if not all(map(math.isfinite, (*rows, *others))):
        return True
    above, error = difference(rows, others)
    return above > min(errors * error, statistics.fmean(others))


def ranked(loss: float) -> float:
    """A loss to sort by: what isn't a number comes last."""
    return loss if loss == loss else math.inf
