"""Whoever works through many records, to read them or to make tokens of them, is at work alone, for a moment.

All of it is Python's own work: twenty threads of it leave the engine, and whoever asks whether the server is
there, a twentieth of the interpreter.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from caikit_pt.call import check_client, tenant

_SECONDS_A_TURN = 0.005
_Item = TypeVar("_Item")


class Turns:
    """One thread is at work; tenants take turns, the threads of each in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[threading.Lock]] = OrderedDict()
        self._is_taken = False
        self._whose: int | None = None

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Begins when it is one's turn; within one's own, at once."""
        thread = threading.get_ident()
        if self._whose == thread:
            yield
            return
        bell = threading.Lock()
        bell.acquire()
        with self._lock:
            if self._is_taken:
                self._waiting.setdefault(tenant, deque()).append(bell)
            else:
                self._is_taken = True
                bell.release()
        # Whoever ends his turn rings it.
        bell.acquire()
        self._whose = thread
        try:
            yield
        finally:
            self._whose = None
            self._end()

    def _end(self) -> None:
        """The next one's begins, if anybody waits."""
        with self._lock:
            self._is_taken = bool(self._waiting)
            if self._is_taken:
                name, theirs = self._waiting.popitem(last=False)
                theirs.popleft().release()
                if theirs:
                    self._waiting[name] = theirs


_TURNS = Turns()


def at_work(turns: Turns = _TURNS) -> AbstractContextManager[None]:
    """A turn for what can't be cut into shorter ones."""
    return turns.one(tenant())


def in_turn(items: Iterable[_Item], turns: Turns = _TURNS) -> Iterator[_Item]:
    """`items`, the making of which is the work; some at a time, and none while they are used.

    Raises ClientLeft where nobody waits for what is made of them any more.
    """
    iterator, is_more = iter(items), True
    while is_more:
        check_client()
        made: list[_Item] = []
        with at_work(turns):
            is_more = False
            until = time.monotonic() + _SECONDS_A_TURN
            for one in iterator:
                made.append(one)
                if time.monotonic() > until:
                    is_more = True
                    break
        yield from made
