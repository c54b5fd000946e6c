"""What the outcomes say: for each contender its figures by seed, of a target and as means over targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.quality.mean import Mean
from bench.quality.trial import Outcome
from bench.starts.contender import Contender
from bench.starts.interval import lead

Points = dict[int, float]


@dataclass(frozen=True, slots=True)
class Figures:
    """Those of one `model` on `targets`, with so many `records`: of one target, or the mean over several."""

    outcomes: Sequence[Outcome]
    model: str
    targets: tuple[str, ...]
    records: int

    def points(self, contender: Contender) -> Points:
        """By seed, accuracy in percent; seeds that lack a target are left out."""
        return self._by_seed(contender, lambda outcome: 100 * outcome.accuracy)

    def seconds(self, contender: Contender) -> Points:
        """By seed, CPU seconds of a training."""
        return self._by_seed(contender, lambda outcome: outcome.seconds)

    def best(self, contenders: Sequence[Contender]) -> Points:
        """The points of the one with the highest mean over the seeds that all of them have, the first of
        equals; those without any are left out."""
        known = [points for one in contenders if (points := self.points(one))]
        shared = set.intersection(*map(set, known)) if known else set()
        if not shared:
            return {}
        return max(known, key=lambda points: fmean(points[seed] for seed in shared))

    def lead(self, first: Sequence[Contender], second: Sequence[Contender]) -> Mean | None:
        """Points of the best of `first` above the best of `second`, seed by seed."""
        return lead(self.best(first), self.best(second))

    def _by_seed(self, contender: Contender, figure: Callable[[Outcome], float]) -> Points:
        found: dict[int, dict[str, float]] = {}
        for outcome in self.outcomes:
            trial = outcome.trial
            if (trial.model, trial.contender, trial.records) == (self.model, contender.name, self.records):
                found.setdefault(trial.seed, {})[trial.task] = figure(outcome)
        return {
            seed: fmean(by_target[target] for target in self.targets)
            for seed, by_target in sorted(found.items())
            if by_target.keys() >= set(self.targets)
        }
