"""Threads in native code end before the interpreter does.

A daemon thread that comes back from torch into an interpreter that is going down ends the process with
"terminate called without an active exception", exit code 134. So what is at work there is told to stop
when the interpreter begins to end, and waited for.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How long a thread whose work was stopped may take to let go of its tensors: freeing them is native code too.
_LETS_GO_S = 2.0

_AT_WORK: dict[threading.Event, tuple[threading.Thread, Callable[[], object]]] = {}
_ENDING = threading.Event()


def is_near() -> bool:
    """Whether the interpreter has begun to end: nothing new is begun."""
    return _ENDING.is_set()


@contextmanager
def waits_for_this(stop: Callable[[], object] = lambda: None) -> Iterator[None]:
    """The interpreter's end calls `stop`, and waits until the block is left; soon, once `is_near`."""
    left = threading.Event()
    _AT_WORK[left] = threading.current_thread(), stop
    try:
        yield
    finally:
        left.set()
        _AT_WORK.pop(left, None)


def start(work: Callable[[], None], stop: Callable[[], object], name: str) -> None:
    """Does `work` in a thread. `stop` makes it return soon; the interpreter's end calls it, and waits."""

    def run() -> None:
        with waits_for_this(stop):
            begun.set()
            work()

    begun = threading.Event()
    threading.Thread(target=run, name=name, daemon=True).start()
    begun.wait()


@atexit.register
def _end() -> None:
    _ENDING.set()
    # One stop may be followed by other work of the same thread: a model that is loaded, then trained.
    while at_work := dict(_AT_WORK):
        for _, stop in at_work.values():
            stop()
        for left, (thread, _) in at_work.items():
            left.wait()
            if thread is not threading.current_thread():
                thread.join(_LETS_GO_S)
