"""The figures as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bench.quality.markdown import NOTHING, cell, head, line
from bench.quality.mean import Mean
from bench.quality.trial import Outcome, Trial
from bench.starts.contender import ABLATION, AUTO, AVERAGE, FROM_SOURCE, MAIN, PLAIN, Contender
from bench.starts.figures import Figures
from bench.starts.interval import interval

BEST, BEST_AUTO = "source - plain", "auto - plain"


def by_target(outcomes: Sequence[Outcome], model: str, targets: Sequence[str], records: int) -> list[str]:
    """With so many records: a line for each target."""
    rows = [(target, Figures(outcomes, model, (target,), records)) for target in targets]
    return _accuracies("target", rows)


def by_records(
    outcomes: Sequence[Outcome], model: str, targets: Sequence[str], sizes: Sequence[int]
) -> list[str]:
    """Means over all targets: a line for each number of records."""
    rows = [(str(size), Figures(outcomes, model, tuple(targets), size)) for size in sizes]
    return _accuracies("records", rows)


def ablation(
    outcomes: Sequence[Outcome], model: str, targets: Sequence[str], sizes: Sequence[int]
) -> list[str]:
    """Means over all targets, of each contender what it is above AVERAGE_SOURCE: a column for each size."""
    of_sizes = [Figures(outcomes, model, tuple(targets), size) for size in sizes]
    first = [cell(interval([*one.points(AVERAGE).values()])) for one in of_sizes]
    lines = [line([AVERAGE.name, *first])]
    lines += [
        line([one.name, *(_signed(figures.lead([one], [AVERAGE])) for figures in of_sizes)])
        for one in (*PLAIN, *ABLATION)
    ]
    return [*head("", *(f"{size} records" for size in sizes)), *lines]


def costs(outcomes: Sequence[Outcome], model: str, targets: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """CPU seconds of a training, means over all targets: a column for each size."""
    of_sizes = [Figures(outcomes, model, tuple(targets), size) for size in sizes]
    lines = [
        line([one.name, *(cell(interval([*figures.seconds(one).values()])) for figures in of_sizes)])
        for one in (*MAIN, *ABLATION)
        if one.trains
    ]
    return [*head("", *(f"{size} records" for size in sizes)), *lines]


def missing(absent: Sequence[Trial], sizes: Sequence[int]) -> list[str]:
    """How many of each contender, a column for each size."""
    counts = Counter((trial.contender, trial.records) for trial in absent)
    lines = [
        line([name, *(str(counts[name, size]) for size in sizes)])
        for name in dict.fromkeys(trial.contender for trial in absent)
    ]
    return [*head("", *(f"{size} records" for size in sizes)), *lines]


def _accuracies(of: str, rows: Sequence[tuple[str, Figures]]) -> list[str]:
    columns: list[Callable[[Figures], str]] = [_accuracy_of(one) for one in MAIN]
    columns += [
        lambda figures: _signed(figures.lead(FROM_SOURCE, PLAIN)),
        lambda figures: _signed(figures.lead([AUTO], PLAIN)),
    ]
    names = [one.name for one in MAIN]
    return [
        *head(of, *names, BEST, BEST_AUTO),
        *(line([name, *(column(figures) for column in columns)]) for name, figures in rows),
    ]


def _accuracy_of(contender: Contender) -> Callable[[Figures], str]:
    return lambda figures: cell(interval([*figures.points(contender).values()]))


def _signed(value: Mean | None) -> str:
    return NOTHING if value is None else value.signed
