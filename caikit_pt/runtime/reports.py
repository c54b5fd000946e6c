"""What a job's process tells the server: a JSON object a line, through a pipe.

A server that is slow to read costs the training nothing: progress that nobody takes is dropped, and told with
the next.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

# How a job's run in a process ends.
FINISHED = "finished"  # artifact/ is complete
INTERRUPTED = "interrupted"  # to go on from its last snapshot
FAILED = "failed"  # text: it would fail again
BROKEN = "broken"  # text: another try may succeed
ENDS = (FINISHED, INTERRUPTED, FAILED, BROKEN)

_MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """`kind` is one of ENDS or of the kinds of events. `number`: which of its run's it is, from 1 on; 0 where
    nobody will ask."""

    job: str
    kind: str
    data: dict[str, Any]
    number: int = 0


class Reporter:
    """Sends reports from any thread; `on_lost` is called when nobody is there to read them."""

    def __init__(self, output: IO[str], on_lost: Callable[[], None]) -> None:
        self._output, self._on_lost = output, on_lost
        self._waiting: queue.Queue[Report | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="reports", daemon=True)
        self._thread.start()

    def send(self, report: Report, may_be_dropped: bool = False) -> bool:
        """Hands it over; waits where there is no room, unless it may be dropped. Whether it was taken."""
        try:
            self._waiting.put(report, block=not may_be_dropped)
        except queue.Full:
            return False
        return True

    def close(self, seconds: float) -> None:
        """Sends what still waits."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        lost = False
        while (report := self._waiting.get()) is not None:
            if lost:
                continue
            try:
                self._output.write(json.dumps([report.job, report.kind, report.data]) + "\n")
                self._output.flush()
            except OSError:
                lost = True
                self._on_lost()


def received(lines: Iterable[str]) -> Iterator[Report]:
    """The reports in `lines`; a line that was cut off by the end of its writer is left out."""
    for line in lines:
        try:
            job, kind, data = json.loads(line)
        except ValueError:
            continue
        yield Report(job, kind, data)
