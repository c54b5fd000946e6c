"""Threads for RPCs of one kind, so that none waits for those of another kind, or for all of one caller."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from caikit_pt.errors import OverCapacity
from caikit_pt.runtime.guard.caller import host_of

# What the thread that asks is to do when the RPC that it answers has returned.
_RETURNING = threading.local()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An RPC that no thread has been found for yet, as gRPC has it answered."""

    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def answer(self) -> Any:
        return self.act(*self.arguments, **self.options)

    def refuse(self, error: OverCapacity) -> Any:
        """Has the behavior that refuses in the place of the one that answers. Raises `error` where it knows
        none, as what isn't an RPC."""
        if not any(hasattr(one, "refusing") for one in self.arguments):
            raise error
        refusing = [one.refusing(error) if hasattr(one, "refusing") else one for one in self.arguments]
        return self.act(*refusing, **self.options)


class Lane(ThreadPoolExecutor):
    """So many threads, and so many RPCs that have to wait for one of them: their callers take turns, and
    where no more may wait, the last of the caller who has most waiting is refused.

    The server takes RPCs on in one thread: nobody else submits meanwhile.
    """

    def __init__(self, name: str, threads: int, waiting: int = 0) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.name, self.most = name, threads + waiting
        # Who asks, by the metadata of an RPC, where that can be told at once; empty: his host has to do.
        self.known: Callable[[Iterable[tuple[str, Any]]], str] = lambda _: ""
        self._running: set[Future[Any]] = set()
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._turns = threading.Lock()
        # Whoever is refused waits for nobody who is answered.
        self._refusing = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-refusals")

    @property
    def full(self) -> bool:
        """Whether one more has to be refused, whoever asks: nobody waits who could make room."""
        return len(self._running) >= self.most and not self._waiting

    @property
    def over_capacity(self) -> OverCapacity:
        """What one more is refused with."""
        return OverCapacity(
            f"{self.most} RPCs like this one are under way, as many as may be. Try again later"
        )

    @property
    def busy(self) -> bool:
        """Whether anything in it runs, or waits."""
        return bool(self._running)

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As that of every executor."""
        caller = _caller(arguments, self.known)
        with self._turns:
            self._waiting.setdefault(caller, deque()).append(_Waiting(act, arguments, options))
            late, error = self._made_room(caller) if len(self._running) >= self.most else (None, None)
        if late is not None and error is not None:
            # One more RPC, and one less: there are as many turns as before.
            return self._refusing.submit(late.refuse, error)
        # As many as there are RPCs; which one it answers is found when a thread is free.
        future = super().submit(self._answer_next)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As that of every executor."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._refusing.shutdown(wait, cancel_futures=cancel_futures)

    def _made_room(self, caller: str) -> tuple[_Waiting, OverCapacity]:
        """The last of whoever has most waiting, of those who have as many `caller`; he waits no more."""
        most = max(self._waiting, key=lambda one: (len(self._waiting[one]), one == caller))
        count = len(self._waiting[most])
        late = self._waiting[most].pop()
        if not self._waiting[most]:
            del self._waiting[most]
        if most == caller:
            return late, self.over_capacity
        return late, OverCapacity(
            f"{count} RPCs of yours are waiting, and {self.most} like this one are under way, as many as "
            "may be: the last made room for somebody who has fewer. Try again later"
        )

    def _answer_next(self) -> Any:
        with self._turns:
            caller, theirs = self._waiting.popitem(last=False)
            next_one = theirs.popleft()
            if theirs:
                self._waiting[caller] = theirs
        _RETURNING.acts = []
        try:
            return next_one.answer()
        finally:
            returned()
            _RETURNING.acts = None


def returned() -> None:
    """What this thread answers is done, but for telling the client: whoever has the answer may ask for the
    next at once. Said for it in the end, where nobody has."""
    acts: list[Callable[[], None]] = getattr(_RETURNING, "acts", None) or []
    while acts:
        acts.pop()()


def on_return(act: Callable[[], None]) -> None:
    """Has `act` called when what this thread of a lane answers has returned, all of a stream, too; at once in
    a thread of no lane."""
    acts = getattr(_RETURNING, "acts", None)
    if acts is None:
        act()
    else:
        acts.append(act)


def _caller(arguments: Iterable[Any], known: Callable[[Iterable[tuple[str, Any]]], str]) -> str:
    """By what gRPC has an RPC answered with; where that isn't as it was, all are one.

    What nobody has looked at yet, as a token that there isn't, makes no new caller: his host does.
    """
    event = next((one for one in arguments if hasattr(one, "invocation_metadata")), None)
    if event is None:
        return ""
    return known(event.invocation_metadata or ()) or host_of(str(event.call.peer(), "utf-8", "replace"))
