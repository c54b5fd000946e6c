"""Threads for RPCs of one kind, so that none of them waits for another kind's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Lane(ThreadPoolExecutor):
    """So many threads, and so many RPCs that have to wait for one of them.

    The server takes RPCs on in one thread: a lane that was found not to be `full` isn't yet when it gets one.
    """

    def __init__(self, name: str, threads: int, waiting: int = 0) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.name, self.most = name, threads + waiting
        self._running: set[Future[Any]] = set()

    @property
    def full(self) -> bool:
        """Whether one more has to be refused."""
        return len(self._running) >= self.most

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As that of every executor."""
        future = super().submit(act, *arguments, **options)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future
