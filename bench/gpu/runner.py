"""All parts one after the other within a time, each in its process; what can't be measured is a row, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from bench.gpu.measure import Measure, Part
from bench.gpu.parts import parts
from bench.gpu.process import Ended, Late, Process
from bench.gpu.row import FAILED, MACHINE, NOT_RUN, Row
from bench.gpu.size import Size

# How much longer than expected a measure may take before it is ended.
_PATIENCE, _LEAST_PATIENCE = 4.0, 60.0
# Of the time, for the last row and the page.
_SPARE = 5.0
_NO_TIME = "no time was left for it"


class Runner:
    """Yields rows as they come. `tell` gets a line on how far it is."""

    def __init__(
        self, size: Size, minutes: float, tell: Callable[[str], None], only: Sequence[str] = ()
    ) -> None:
        """`only`: parts whose names begin with one of these; none: all."""
        self._size, self._tell = size, tell
        self._began = time.monotonic()
        self._stop = self._began + 60 * minutes - _SPARE
        wanted = tuple(only)
        self._parts = [
            (number, part)
            for number, part in enumerate(parts(size))
            if not wanted or part.name.startswith(wanted) or part.name == MACHINE
        ]

    def rows(self) -> Iterator[Row]:
        """All of them."""
        for number, part in self._parts:
            first = 0
            while first < len(part.measures):
                if part.measures[first].seconds > self._left:
                    yield from _not_run(part.measures[first:])
                    break
                first = yield from self._of_a_process(number, part, first)

    def _of_a_process(self, number: int, part: Part, first: int) -> Generator[Row, None, int]:
        """The rows of one process, which takes measures from `first` on; returns the first that is left."""
        process = Process.start(self._size, number, first, self._stop)
        try:
            for index in range(first, len(part.measures)):
                self._say(number, part, index)
                if not (yield from self._of_a_measure(process, part.measures[index])):
                    break
        finally:
            process.end()
        return index + 1

    def _of_a_measure(self, process: Process, measure: Measure) -> Generator[Row, None, bool]:
        """Its rows; returns whether the process goes on with the next one."""
        patience = max(_LEAST_PATIENCE, _PATIENCE * measure.seconds)
        stop = min(self._stop, time.monotonic() + patience)
        try:
            while not isinstance(message := process.message(stop), bool):
                yield message
        except Ended as reason:
            yield measure.row(str(reason), FAILED)
        except Late:
            over = self._left <= 0
            yield measure.row(
                "the time was over" if over else f"no end after {patience:.0f} s", NOT_RUN if over else FAILED
            )
        else:
            return message
        return False

    @property
    def _left(self) -> float:
        return self._stop - time.monotonic()

    def _say(self, number: int, part: Part, first: int) -> None:
        """How long so far, and about how long to go."""
        to_go = sum(measure.seconds for measure in part.measures[first:])
        to_go += sum(other.seconds for later, other in self._parts if later > number)
        passed = time.monotonic() - self._began
        to_go = min(to_go, max(0.0, self._left))
        self._tell(
            f"[{passed:4.0f} s, about {to_go:.0f} s to go] {part.measures[first].part}: "
            f"{part.measures[first].what}"
        )


def _not_run(measures: Sequence[Measure]) -> Iterator[Row]:
    return (measure.row(_NO_TIME, NOT_RUN) for measure in measures)
