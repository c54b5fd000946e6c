"""Threads for RPCs of one kind, so that none waits for those of another kind, or for all of one caller."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from caikit_pt.runtime.guard.caller import AUTHORIZATION, client_of


class Lane(ThreadPoolExecutor):
    """So many threads, and so many RPCs that have to wait for one of them: their callers take turns.

    Who a caller is nobody has asked yet: whoever shows another token, or comes from another host.
    The server takes RPCs on in one thread: a lane that was found not to be `full` isn't yet when it gets one.
    """

    def __init__(self, name: str, threads: int, waiting: int = 0) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.name, self.most = name, threads + waiting
        self._running: set[Future[Any]] = set()
        self._waiting: OrderedDict[str, deque[Callable[[], Any]]] = OrderedDict()
        self._turns = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether one more has to be refused."""
        return len(self._running) >= self.most

    @property
    def busy(self) -> bool:
        """Whether anything in it runs, or waits."""
        return bool(self._running)

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As that of every executor."""
        with self._turns:
            theirs = self._waiting.setdefault(_caller(arguments), deque())
            theirs.append(partial(act, *arguments, **options))
        # As many as there are RPCs; which one it answers is found when a thread is free.
        future = super().submit(self._answer_next)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _answer_next(self) -> Any:
        with self._turns:
            caller, theirs = self._waiting.popitem(last=False)
            answer = theirs.popleft()
            if theirs:
                self._waiting[caller] = theirs
        return answer()


def _caller(arguments: Iterable[Any]) -> str:
    """By what gRPC has an RPC answered with; where that isn't as it was, all are one."""
    event = next((one for one in arguments if hasattr(one, "invocation_metadata")), None)
    if event is None:
        return ""
    for key, value in event.invocation_metadata or ():
        if key == AUTHORIZATION:
            return str(value)
    return client_of(str(event.call.peer(), "utf-8", "replace"))
