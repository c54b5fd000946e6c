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
from typing import Generic, TypeVar

from caikit_pt.call import check_client, tenant

_SECONDS_A_TURN = 0.005
_Item = TypeVar("_Item")


class Waiting(Generic[_Item]):
    """What waits, and whose it is: owners take turns, and of each his own come in their order. Not for
    several threads at once."""

    def __init__(self) -> None:
        # Whose turn is next comes first.
        self._queues: OrderedDict[str, deque[_Item]] = OrderedDict()

    def __iter__(self) -> Iterator[str]:
        """Owners, by their turns."""
        return iter(self._queues)

    def __bool__(self) -> bool:
        return bool(self._queues)

    def of(self, owner: str) -> int:
        """How many of his wait."""
        return len(self._queues[owner])

    def add(self, owner: str, item: _Item) -> None:
        """One more, behind his others."""
        self._queues.setdefault(owner, deque()).append(item)

    def next(self, owner: str) -> _Item:
        """His first; his turn comes again behind all others'."""
        queue = self._queues.pop(owner)
        item = queue.popleft()
        if queue:
            self._queues[owner] = queue
        return item

    def last(self, owner: str) -> _Item:
        """His last, which waits no more; whose turn it is stays."""
        item = self._queues[owner].pop()
        if not self._queues[owner]:
            del self._queues[owner]
        return item


class Turns:
    """One thread is at work; tenants take turns, the threads of each in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = Waiting[threading.Lock]()
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
                self._waiting.add(tenant, bell)
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
                self._waiting.next(next(iter(self._waiting))).release()


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
