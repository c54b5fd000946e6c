"""Threads in native code end before the interpreter does.

A daemon thread that comes back from torch into an interpreter that is going down ends the process with
"terminate called without an active exception", exit code 134.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable

_RUNNING: dict[threading.Thread, Callable[[], object]] = {}


def start(work: Callable[[], None], stop: Callable[[], object], name: str) -> None:
    """Does `work` in a thread. `stop` makes it return soon; the interpreter's end calls it, and waits."""

    def run() -> None:
        try:
            work()
        finally:
            _RUNNING.pop(thread, None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _RUNNING[thread] = stop
    thread.start()


@atexit.register
def _end() -> None:
    running = dict(_RUNNING)
    for stop in running.values():
        stop()
    for thread in running:
        thread.join()
