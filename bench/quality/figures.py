"""What the outcomes say: for each contender its figures by seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bench.quality.contender import COLUMNS, OUTSIDERS
from bench.quality.trial import Outcome, Trial


class Figures:
    """The outcomes of the trials that there are."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = {outcome.trial: outcome for outcome in outcomes}
        self._seeds = sorted({trial.seed for trial in self._outcomes})

    def by_seed(self, model: str, task: str, column: str, records: int) -> dict[int, list[Outcome]]:
        """By seed, the outcomes of all contenders of `column`; seeds that lack one are left out."""
        model = "" if column in OUTSIDERS else model
        names = COLUMNS[column]
        found: dict[int, list[Outcome]] = {seed: [] for seed in self._seeds}
        for trial, outcome in self._outcomes.items():
            if (trial.model, trial.task, trial.records) == (model, task, records) and (
                trial.contender in names
            ):
                found[trial.seed].append(outcome)
        return {seed: outcomes for seed, outcomes in found.items() if len(outcomes) == len(names)}

    def points(self, model: str, task: str, column: str, records: int) -> dict[int, float]:
        """By seed, the accuracy in percent of the column's best by the selection records."""
        found = self.by_seed(model, task, column, records)
        return {seed: 100 * best(outcomes).accuracy for seed, outcomes in found.items()}

    def by_validation(self, model: str, task: str, column: str, records: int) -> dict[int, float]:
        """The same of the one with the lowest validation loss; empty where nothing was validated."""
        found = self.by_seed(model, task, column, records)
        return {
            seed: 100 * min(validated, key=lambda one: one.validation_loss or 0.0).accuracy
            for seed, outcomes in found.items()
            if (validated := [one for one in outcomes if one.validation_loss is not None])
        }

    def seconds(self, model: str, task: str, column: str, records: int) -> dict[int, float]:
        """By seed, the CPU seconds of a training: the mean over the column's contenders."""
        found = self.by_seed(model, task, column, records)
        return {seed: fmean(one.seconds for one in outcomes) for seed, outcomes in found.items()}


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The one that the selection records choose, the first of equals; a single one needs no choice.

    What it is scored on has no say.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    return max(outcomes, key=lambda one: one.selected or 0.0)


def missing(wanted: Sequence[Trial], outcomes: Sequence[Outcome]) -> list[str]:
    """The trials that aren't there, a line for what belongs together."""
    there = {outcome.trial for outcome in outcomes}
    columns = {name: column for column, names in COLUMNS.items() for name in names}
    groups: dict[tuple[str, int], dict[tuple[str, str], list[int]]] = {}
    for trial in wanted:
        if trial not in there:
            tasks = groups.setdefault((columns[trial.contender], trial.records), {})
            seeds = tasks.setdefault((trial.model, trial.task), [])
            if trial.seed not in seeds:
                seeds.append(trial.seed)
    return [
        f"{column} with {records} records: {', '.join(map(_in_words, tasks.items()))}"
        for (column, records), tasks in groups.items()
    ]


def _in_words(found: tuple[tuple[str, str], Sequence[int]]) -> str:
    (model, task), seeds = found
    return f"{f'{model} {task}'.strip()} (seed {', '.join(map(str, sorted(seeds)))})"
