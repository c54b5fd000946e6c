"""One thing to measure, and a part: those that share a process, and in it a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.gpu.row import Row


@dataclass(frozen=True, slots=True)
class Measure:
    """`seconds`: about how long it takes. Nothing heavy is imported before `run` is called."""

    part: str
    what: str
    seconds: float
    run: Callable[[], Iterable[Row]]

    def row(self, found: str, verdict: str) -> Row:
        """A row without a figure, which says why there is none."""
        return Row(self.part, self.what, " ".join(found.replace("|", "/").split()), "", verdict)


@dataclass(frozen=True, slots=True)
class Part:
    """Measures in the order in which they are taken; the first of them loads what they share."""

    name: str
    measures: Sequence[Measure]

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return sum(measure.seconds for measure in self.measures)
