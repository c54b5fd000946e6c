"""Trials as a Markdown table, with what they are held to."""

from __future__ import annotations

from collections.abc import Sequence

from bench.quality.trial import DEFAULTS, GRID, SEARCH, Trial

# In points of accuracy below the best of the grid, and in trainings with the defaults.
DEFAULTS_WITHIN, SEARCH_WITHIN, SEARCH_COST = 2.0, 1.0, 3.0
_HEAD = (
    "| model | task | best of grid | which | grid by validation | defaults | difference "
    "| search | difference | which | cost |"
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
    def defaults_difference(self) -> float:
        """Points of the defaults above the best of the grid."""
        return 100 * (self.defaults.accuracy - self.best.accuracy)

    @property
    def search_difference(self) -> float:
        """Points of the search above the best of the grid."""
        return 100 * (self.search.accuracy - self.best.accuracy)

    @property
    def cost(self) -> float:
        """CPU time of the search, in trainings with the defaults."""
        return self.search.seconds / self.defaults.seconds

    def __str__(self) -> str:
        cells = (
            self.best.model,
            self.best.task,
            f"{100 * self.best.accuracy:.1f}",
            self.best.request,
            f"{100 * self.chosen.accuracy:.1f}",
            f"{100 * self.defaults.accuracy:.1f}",
            _judged(self.defaults_difference, self.defaults_difference >= -DEFAULTS_WITHIN - _ROUNDING),
            f"{100 * self.search.accuracy:.1f}",
            _judged(self.search_difference, self.search_difference >= -SEARCH_WITHIN - _ROUNDING),
            self.search.chosen,
            _judged(self.cost, self.cost <= SEARCH_COST),
        )
        return f"| {' | '.join(cells)} |"


def rows(trials: Sequence[Trial]) -> list[Row]:
    """A row for each model and task of which all trials are there."""
    keys = list(dict.fromkeys((trial.model, trial.task) for trial in trials))
    groups = [[trial for trial in trials if (trial.model, trial.task) == key] for key in keys]
    return [Row(group) for group in groups if {DEFAULTS, SEARCH, *GRID} <= {one.request for one in group}]


def table(trials: Sequence[Trial]) -> str:
    """The table, and the means of its columns below it."""
    whole = rows(trials)
    if not whole:
        return "No model and task has all of its trials yet."
    lines = [_HEAD, "|" + " --- |" * (_HEAD.count("|") - 1), *map(str, whole), ""]
    count = len(whole)
    met = sum(row.defaults_difference >= -DEFAULTS_WITHIN - _ROUNDING for row in whole)
    found = sum(row.search_difference >= -SEARCH_WITHIN - _ROUNDING for row in whole)
    by_validation = sum(100 * (row.chosen.accuracy - row.best.accuracy) for row in whole) / count
    lines += [
        f"Defaults: {met} of {count} within {DEFAULTS_WITHIN:g} points of the best of the grid, "
        f"{sum(row.defaults_difference for row in whole) / count:+.1f} points on average.",
        f"Search: {found} of {count} within {SEARCH_WITHIN:g} point, "
        f"{sum(row.search_difference for row in whole) / count:+.1f} points on average, at "
        f"{sum(row.cost for row in whole) / count:.1f} times the CPU time of a training with the "
        f"defaults, and at most {max(row.cost for row in whole):.1f} times.",
        f"The point of the grid with the lowest validation loss: {by_validation:+.1f} points on average.",
    ]
    return "\n".join(lines)


def _judged(value: float, met: bool) -> str:
    return f"{value:+.1f}" if met else f"**{value:+.1f}**"
