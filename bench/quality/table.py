"""The figures as Markdown tables, with what they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.quality.contender import (
    DEFAULTS,
    GRID_COLUMN,
    MAJORITY,
    PEFT_COLUMN,
    SEARCH,
    SEPARATORS,
    TF_IDF,
)
from bench.quality.figures import Figures
from bench.quality.markdown import NOTHING, cell, head, line
from bench.quality.mean import Mean, difference, mean
from bench.quality.task import Task

# In points of accuracy below the best of the grid, and in trainings with the defaults.
DEFAULTS_WITHIN, SEARCH_WITHIN, SEARCH_COST = 2.0, 1.0, 3.0
# With fewer test records points mean too little to be held to.
FEWEST_TO_JUDGE = 500
_ROUNDING = 1e-9
_SHOWN = (DEFAULTS, SEARCH, GRID_COLUMN, PEFT_COLUMN, TF_IDF, MAJORITY)
_TIMED = (DEFAULTS, SEARCH, GRID_COLUMN, PEFT_COLUMN, TF_IDF)


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known of one model on one task, with so many records to train on."""

    figures: Figures
    model: str
    task: Task
    records: int

    def points(self, column: str) -> dict[int, float]:
        """By seed, accuracy in percent."""
        return self.figures.points(self.model, self.task.name, column, self.records)

    def seconds(self, column: str) -> dict[int, float]:
        """By seed, CPU seconds of a training."""
        return self.figures.seconds(self.model, self.task.name, column, self.records)

    def lead(self, column: str, other: str) -> Mean | None:
        """Points of the one above the other."""
        return difference(self.points(column), self.points(other))

    @property
    def cost(self) -> Mean | None:
        """CPU time of the search, in trainings with the defaults."""
        search, defaults = self.seconds(SEARCH), self.seconds(DEFAULTS)
        return mean([search[seed] / defaults[seed] for seed in search if defaults.get(seed)])

    @property
    def by_validation(self) -> Mean | None:
        """Points of the grid's choice by validation loss above its choice by the selection records."""
        chosen = self.figures.by_validation(self.model, self.task.name, GRID_COLUMN, self.records)
        return difference(chosen, self.points(GRID_COLUMN))

    @property
    def is_judged(self) -> bool:
        """Whether there are enough test records."""
        return len(self.task.test) >= FEWEST_TO_JUDGE

    @property
    def defaults_meet(self) -> bool | None:
        """Whether the defaults are as good as they are to be; None where that isn't judged."""
        return self._within(DEFAULTS, DEFAULTS_WITHIN)

    @property
    def search_meets(self) -> bool | None:
        """Whether the search is as good as it is to be; None where that isn't judged."""
        return self._within(SEARCH, SEARCH_WITHIN)

    def _within(self, column: str, points: float) -> bool | None:
        lead = self.lead(column, GRID_COLUMN)
        return lead.value >= -points - _ROUNDING if lead and self.is_judged else None

    def __str__(self) -> str:
        leads = [
            _verdict(self.lead(DEFAULTS, GRID_COLUMN), self.defaults_meet),
            _verdict(self.lead(SEARCH, GRID_COLUMN), self.search_meets),
            _verdict(self.lead(DEFAULTS, PEFT_COLUMN)),
            _verdict(self.lead(DEFAULTS, TF_IDF)),
        ]
        return line([self.task.name, *(cell(mean([*self.points(name).values()])) for name in _SHOWN), *leads])


def quality(rows: Sequence[Row]) -> list[str]:
    """The table of one model: accuracies, and differences to what they are held to."""
    leads = ("defaults - grid", "search - grid", "defaults - peft", "defaults - TF-IDF")
    return [*head("task", *_SHOWN, *leads), *map(str, rows), "", *_summary(rows)]


def costs(rows: Sequence[Row]) -> list[str]:
    """The table of CPU seconds of one model."""
    lines = []
    for row in rows:
        seconds = (cell(mean([*row.seconds(name).values()])) for name in _TIMED)
        cost = NOTHING if row.cost is None else f"{row.cost.value:.1f}"
        lines.append(line([row.task.name, *seconds, cost]))
    names = [f"{name}, each" if name in (GRID_COLUMN, PEFT_COLUMN) else name for name in _TIMED]
    return [*head("task", *names, "search in trainings"), *lines]


def separators(rows: Sequence[Row]) -> list[str]:
    """The table of one model by what stands between text and answer."""
    lines = [
        line([row.task.name, *(cell(mean([*row.points(name).values()])) for name in SEPARATORS)])
        for row in rows
    ]
    return [*head("task", *SEPARATORS), *lines]


def by_records(
    figures: Figures, models: Sequence[str], tasks: Sequence[Task], sizes: Sequence[int]
) -> list[str]:
    """Accuracies by number of records, for the defaults of each model and for the outsiders."""
    contenders = [(MAJORITY, ""), (TF_IDF, ""), *((DEFAULTS, model) for model in models)]
    lines = []
    for task in tasks:
        for column, model in contenders:
            found = [
                mean([*figures.points(model, task.name, column, task.size(size)).values()])
                if size == task.size(size) or size == sizes[-1]
                else None
                for size in sizes
            ]
            name = f"{column}, {model}" if model else column
            lines.append(line([task.name, name, *map(cell, found), str(task.size(sizes[-1]))]))
    return [*head("task", "", *map(str, sizes[:-1]), "all", "all are"), *lines]


def _summary(rows: Sequence[Row]) -> list[str]:
    """What is judged, counted and averaged over the rows with enough test records."""
    judged = [row for row in rows if row.is_judged]
    lines = []
    for name, column, within, verdicts in (
        ("Defaults", DEFAULTS, DEFAULTS_WITHIN, [row.defaults_meet for row in judged]),
        ("Search", SEARCH, SEARCH_WITHIN, [row.search_meets for row in judged]),
    ):
        known = [verdict for verdict in verdicts if verdict is not None]
        lines.append(
            f"- {name}: {sum(known)} of {len(known)} within {within:g} point{'s' if within > 1 else ''} of "
            f"the best of the grid{_on_average([row.lead(column, GRID_COLUMN) for row in judged])}."
        )
    if ratios := [row.cost.value for row in rows if row.cost]:
        lines.append(
            f"- A search costs {fmean(ratios):.1f} trainings with the defaults on average; "
            f"{sum(ratio <= SEARCH_COST for ratio in ratios)} of {len(ratios)} at most {SEARCH_COST:g}."
        )
    if known_leads := [row.by_validation for row in judged if row.by_validation]:
        points = fmean(lead.value for lead in known_leads)
        lines.append(
            f"- The grid's point with the lowest validation loss: {points:+.1f} points beside the one that "
            "the selection records choose."
        )
    return lines


def _on_average(leads: Sequence[Mean | None]) -> str:
    known = [lead.value for lead in leads if lead]
    return f", {fmean(known):+.1f} points on average" if known else ""


def _verdict(lead: Mean | None, met: bool | None = None) -> str:
    if lead is None:
        return NOTHING
    if met is None:
        return lead.signed
    return f"{lead.signed} met" if met else f"**{lead.signed} missed**"
