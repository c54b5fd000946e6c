"""SIGTERM and SIGINT, and how the process ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

_ASKING = (signal.SIGTERM, signal.SIGINT)
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_FLUSH = 2.0


class Signals:
    """The first asks the server to end, and the process ends with 0. A second one ends it at once: with 143
    or 130, as of a process that knows no signals, since answers were cut off.

    Trainings lose nothing by that: their processes keep a snapshot where this one is no more.
    """

    def __init__(self) -> None:
        self._serving = self._asked = False
        # What a handler may put into, whatever the main thread is at.
        self._first: SimpleQueue[int] = SimpleQueue()
        for number in _ASKING:
            signal.signal(number, self._hear)

    def serve(self) -> None:
        """There is something to end from now on."""
        self._serving = True

    def wait(self) -> None:
        """Until the first one.

        A signal that the system delivers to another thread doesn't wake this one, in which Python has its
        handlers run: it has to look.
        """
        while True:
            with suppress(Empty):
                self._first.get(timeout=_SECONDS_BETWEEN_LOOKS)
                return

    def _hear(self, number: int, _: Any) -> None:
        if not self._serving:
            leave(0)
        if self._asked:
            leave(128 + number)
        self._asked = True
        self._first.put(number)


def leave(code: int) -> NoReturn:
    """Ends the process with all that has been said.

    Not as the interpreter does: it waits for threads of gRPC and torch that may be deep in native code, and
    one that comes back from there into an interpreter that is going down aborts the process (ending.py).
    """
    # A thread that is cut off may hold a lock of what is flushed.
    flushing = threading.Thread(target=_flush, name="leaving", daemon=True)
    flushing.start()
    flushing.join(_SECONDS_TO_FLUSH)
    os._exit(code)


def _flush() -> None:
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
