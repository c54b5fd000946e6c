"""What a job's process tells the server: a JSON object a line, through a pipe.

A server that is slow to read costs the training nothing: progress that nobody takes is dropped, and told with
the next.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
import time
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
_SECONDS_BETWEEN_TRIES = 1.0


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
        self._output, self._on_lost, self._is_closing = output, on_lost, False
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
        self._is_closing = True
        self._waiting.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        lost = False
        while (report := self._waiting.get()) is not None:
            if lost:
                continue
            line = json.dumps([report.job, report.kind, report.data]) + "\n"
            try:
                self._put(line.encode())
            except OSError:
                lost = True
                self._on_lost()

    def _put(self, left: bytes) -> None:
        """Tries again where a disk is full, as one may be that reports lie on. Raises OSError where nobody
        reads."""
        while left:
            try:
                left = left[os.write(self._output.fileno(), left) :]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._is_closing:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES)


def received(lines: Iterable[str]) -> Iterator[Report]:
    """The reports in `lines`; a line that was cut off by the end of its writer is left out."""
    for line in lines:
        try:
            job, kind, data = json.loads(line)
        except (ValueError, TypeError):
            continue
        if isinstance(job, str) and isinstance(kind, str) and isinstance(data, dict):
            yield Report(job, kind, data)
