"""Threads for RPCs of one kind, so that none waits for those of another kind, or for all of one caller."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from caikit_pt.errors import OverCapacity
from caikit_pt.runtime.guard.caller import host_of
from caikit_pt.turns import Waiting

# What the thread that asks is to do when the RPC that it answers has returned.
_RETURNING = threading.local()
# A caller has no more threads than so many times those that nobody has: with 3, one has three quarters at
# the most, two have three sevenths each, and whoever comes next finds a thread (the dynamic thresholds of
# Choudhury and Hahne 1998, for the buffers of a switch).
_SHARE_OF_FREE = 3


@dataclass(frozen=True, slots=True)
class _Rpc:
    """An RPC, as gRPC has it answered; `end` is done when it has been."""

    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    end: Future[Any] = field(default_factory=Future)

    def answer(self) -> None:
        self.end.set_running_or_notify_cancel()
        self._end(lambda: self.act(*self.arguments, **self.options))

    def refuse(self, error: OverCapacity) -> None:
        """Has the behavior that refuses in the place of the one that answers. It ends with `error` where it
        knows none, as what isn't an RPC."""
        if not any(hasattr(one, "refusing") for one in self.arguments):
            self.end.set_exception(error)
            return
        refusing = [one.refusing(error) if hasattr(one, "refusing") else one for one in self.arguments]
        self._end(lambda: self.act(*refusing, **self.options))

    def _end(self, act: Callable[[], Any]) -> None:
        try:
            result = act()
        except BaseException as error:  # the executor's own would be told of it
            self.end.set_exception(error)
        else:
            self.end.set_result(result)


class Lane(ThreadPoolExecutor):
    """So many threads, and so many RPCs that have to wait for one of them: their callers take turns, none
    has all threads, and where no more may wait, the last of the caller who has most waiting is refused.

    The server takes RPCs on in one thread: nobody else submits meanwhile.
    """

    def __init__(self, name: str, threads: int, waiting: int = 0, shared: bool = True) -> None:
        """Not `shared`: a caller may have all threads, as somebody else sees to it that he hasn't."""
        super().__init__(threads, thread_name_prefix=name)
        self.name, self.most = name, threads + waiting
        # Who asks, by the metadata of an RPC, where that can be told at once; empty: his host has to do.
        self.known: Callable[[Iterable[tuple[str, Any]]], str] = lambda _: ""
        self._all_threads, self._shared = threads, shared
        self._under_way: set[Future[Any]] = set()
        self._waiting = Waiting[_Rpc]()
        # By caller, how many threads answer him; and how many came, and found none that might go on.
        self._answering: Counter[str] = Counter()
        self._spare = 0
        self._turns = threading.Lock()
        # Whoever is refused waits for nobody who is answered.
        self._refusing = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-refusals")

    @property
    def under_way(self) -> int:
        """RPCs that run, or wait."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether one more has to be refused, whoever asks: nobody waits who could make room."""
        return self.under_way >= self.most and not self._waiting

    @property
    def over_capacity(self) -> OverCapacity:
        """What one more is refused with."""
        return OverCapacity(
            f"{self.most} RPCs like this one are under way, as many as may be. Try again later"
        )

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As that of every executor."""
        caller, rpc = _caller(arguments, self.known), _Rpc(act, arguments, options)
        with self._turns:
            self._waiting.add(caller, rpc)
            late, error = self._made_room(caller) if self.under_way >= self.most else (None, None)
            self._under_way.add(rpc.end)
            # One less, where one has made room: the thread that came for it, or will, comes for this one.
            called = self._called() if late else 1
        rpc.end.add_done_callback(self._under_way.discard)
        if late is not None and error is not None:
            self._refusing.submit(late.refuse, error)
        for _ in range(called):
            super().submit(self._answer_next)
        return rpc.end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As that of every executor."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._refusing.shutdown(wait, cancel_futures=cancel_futures)

    def _made_room(self, caller: str) -> tuple[_Rpc, OverCapacity]:
        """The last of whoever has most waiting, of those who have as many `caller`; he waits no more."""
        most = max(self._waiting, key=lambda one: (self._waiting.of(one), one == caller))
        count, late = self._waiting.of(most), self._waiting.last(most)
        if most == caller:
            return late, self.over_capacity
        return late, OverCapacity(
            f"{count} RPCs of yours are waiting, and {self.most} like this one are under way, as many as "
            "may be: the last made room for somebody who has fewer. Try again later"
        )

    def _answer_next(self) -> None:
        """In a thread: one that waits, if any may go on; the end of one calls threads for the next."""
        with self._turns:
            caller = next((one for one in self._waiting if self._may_have(one)), None)
            if caller is None:
                self._spare += 1
                return
            rpc = self._waiting.next(caller)
            self._answering[caller] += 1
        _RETURNING.acts = []
        try:
            rpc.answer()
        finally:
            returned()
            _RETURNING.acts = None
            with self._turns:
                self._answering[caller] -= 1
                if not self._answering[caller]:
                    del self._answering[caller]
                called = self._called()
            for _ in range(called):
                with suppress(RuntimeError):  # the process ends, and nobody is answered any more
                    super().submit(self._answer_next)

    def _called(self) -> int:
        """Threads that have come and found nobody, as many as there are now those who may go on."""
        called = min(self._spare, sum(map(self._may_have, self._waiting))) if self._spare else 0
        self._spare -= called
        return called

    def _may_have(self, caller: str) -> int:
        """Threads for what he has waiting, while he has fewer than his share of the free ones."""
        free = self._all_threads - self._answering.total()
        if not self._shared:
            return min(self._waiting.of(caller), free)
        more: int = -((self._answering[caller] - _SHARE_OF_FREE * free) // (_SHARE_OF_FREE + 1))
        return max(0, min(self._waiting.of(caller), more))


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
