"""Trials as a Markdown table, with what they are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from bench.quality.trial import DEFAULTS, GRID, SEARCH, Trial

# In points of accuracy below the best of the grid, and in trainings with the defaults.
DEFAULTS_WITHIN, SEARCH_WITHIN, SEARCH_COST = 2.0, 1.0, 3.0
_HEAD = (
    "model",
    "task",
    "best of grid",
    "which",
    "grid by validation",
    "defaults",
    "difference",
    "search",
    "difference",
    "which",
    "cost",
)
_ROUNDING = 1e-9


class Row:
    """All trials of one model and task."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        by_request = {trial.request: trial for trial in trials}
        grid = [by_request[name] for name in GRID]
        self.defaults, self.search = by_request[DEFAULTS], by_request[SEARCH]
        self.best = max(grid, key=lambda trial: trial.accuracy)
        self.chosen = min(grid, key=lambda trial: trial.validation_loss)

    @property
    def error(self) -> float:
        """The standard error of the best accuracy, in points."""
        accuracy = self.best.accuracy
        return 100 * math.sqrt(accuracy * (1 - accuracy) / self.best.judged)

    @property
    def defaults_difference(self) -> float:
        """Points of the defaults above the best of the grid."""
        return 100 * (self.defaults.accuracy - self.best.accuracy)

    @property
    def search_difference(self) -> float:
        """Points of the search above the best of the grid."""
        return 100 * (self.search.accuracy - self.best.accuracy)

    @property
    def chosen_difference(self) -> float:
        """Points of the grid's choice by validation above its best."""
        return 100 * (self.chosen.accuracy - self.best.accuracy)

    @property
    def cost(self) -> float:
        """CPU time of the search, in trainings with the defaults."""
        return self.search.seconds / self.defaults.seconds

    @property
    def defaults_meet(self) -> bool:
        """Whether the defaults are as good as they are to be."""
        return self.defaults_difference >= -DEFAULTS_WITHIN - _ROUNDING

    @property
    def search_meets(self) -> bool:
        """Whether the search is as good as it is to be."""
        return self.search_difference >= -SEARCH_WITHIN - _ROUNDING

    @property
    def cost_meets(self) -> bool:
        """Whether the search is as cheap as it is to be."""
        return self.cost <= SEARCH_COST

    def __str__(self) -> str:
        cells = (
            self.best.model,
            self.best.task,
            f"{100 * self.best.accuracy:.1f} ± {self.error:.1f}",
            self.best.request,
            f"{100 * self.chosen.accuracy:.1f}",
            f"{100 * self.defaults.accuracy:.1f}",
            _judged(f"{self.defaults_difference:+.1f}", self.defaults_meet),
            f"{100 * self.search.accuracy:.1f}",
            _judged(f"{self.search_difference:+.1f}", self.search_meets),
            self.search.chosen,
            _judged(f"{self.cost:.1f}", self.cost_meets),
        )
        return _line(cells)


def rows(trials: Sequence[Trial]) -> list[Row]:
    """A row for each model and task of which all trials are there."""
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.model, trial.task, trial.records, trial.judged), []).append(trial)
    wanted = {DEFAULTS, SEARCH, *GRID}
    return [Row(group) for group in groups.values() if wanted <= {trial.request for trial in group}]


def table(trials: Sequence[Trial]) -> str:
    """The table, and the means of its columns below it."""
    whole = rows(trials)
    if not whole:
        return "No model and task has all of its trials yet."
    return "\n".join([_line(_HEAD), _line(["---"] * len(_HEAD)), *map(str, whole), "", *_summary(whole)])


def _summary(whole: Sequence[Row]) -> list[str]:
    count = len(whole)
    return [
        f"- Defaults: {sum(row.defaults_meet for row in whole)} of {count} within {DEFAULTS_WITHIN:g} points "
        f"of the best of the grid, {fmean(row.defaults_difference for row in whole):+.1f} points on average.",
        f"- Search: {sum(row.search_meets for row in whole)} of {count} within {SEARCH_WITHIN:g} point, "
        f"{fmean(row.search_difference for row in whole):+.1f} points on average; "
        f"{sum(row.cost_meets for row in whole)} of {count} at no more than {SEARCH_COST:g} times the CPU "
        f"time of a training with the defaults, {fmean(row.cost for row in whole):.1f} times on average.",
        f"- The point of the grid with the lowest validation loss: "
        f"{fmean(row.chosen_difference for row in whole):+.1f} points on average.",
    ]


def _judged(value: str, met: bool) -> str:
    return f"{value} met" if met else f"**{value} missed**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
