"""Equal vLLM servers of one model: each prompt asks its own first, whose cache knows it, and passes over one
that fails.

The answers say how servers are. Only one that has failed is asked for its health, until it is well: no
request pays for that, and those that work aren't asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from math import inf
from typing import Any, TypeVar

from caikit_pt.ending import start
from caikit_pt.errors import BackendUnavailable, CaikitPtError, TooManyRequests, WaitedTooLong
from caikit_pt.replicas import Replicas
from caikit_pt.serving.vllm_server import Server

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_SECONDS_TO_CHECK = 1.0
_AGAIN = ". Try again later"


class Servers:
    """One or several. All requests to them go through one thread, whoever waits for them."""

    def __init__(self, all: Sequence[Server]) -> None:
        self.all = all
        self._replicas = Replicas(all)
        self._tasks: set[Future[Any]] = set()
        self._checks: set[Future[None]] = set()
        # Nobody wants to know how servers are that nobody asks any more.
        weakref.finalize(self, _cancel, self._checks).atexit = False

    def __str__(self) -> str:
        return " and ".join(map(str, self.all))

    @property
    def model(self) -> str:
        """The name that they know it by."""
        return self.all[0].model

    @property
    def under_way(self) -> int:
        """Requests that they are answering, or have in their queues."""
        return len(self._tasks)

    def is_asked(self, server: Server) -> bool:
        """Whether it hasn't failed, or has been well since."""
        return not self._replicas.rests(server)

    def start(self, work: Callable[[], Awaitable[Result]]) -> Future[Result]:
        """Does `work` in the thread of all servers."""
        return _begin(work, self._tasks)

    @cached_property
    def context_length(self) -> int | None:
        """Positions that all of those have that are there now, soft prompt included.

        Asked once. Raises BackendUnavailable where none is there, and BackendMismatch where one serves other
        models.
        """
        return self.start(self._ask_context_length).result()

    async def ask(
        self, prompt: str, work: Callable[[Server], Awaitable[None]], begun: Callable[[], bool]
    ) -> None:
        """Has `work` done with the server that `prompt` prefers; where that fails and nothing has `begun`,
        with the next. Raises what `work` does; where none is left, BackendUnavailable that says why."""
        errors: list[CaikitPtError] = []
        for server in self._replicas.order(prompt):
            with self._replicas.asking(server):
                try:
                    await work(server)
                    return
                except TooManyRequests as error:  # it is well, and full
                    errors.append(error)
                except BackendUnavailable as error:
                    self._lost(server, error)
                    if begun():
                        raise
                    errors.append(error)
                except WaitedTooLong as error:  # and there is no time left for another
                    self._lost(server, error)
                    raise
        raise _all(errors)

    async def _ask_context_length(self) -> int | None:
        found = await asyncio.gather(*(one.context_length() for one in self.all), return_exceptions=True)
        lengths, errors = [], []
        for server, length in zip(self.all, found, strict=True):
            if isinstance(length, BackendUnavailable):
                self._lost(server, length)
                errors.append(length)
            elif isinstance(length, BaseException):
                raise length
            else:
                lengths.append(length)
        if not lengths:
            raise _all(errors)
        return min((length for length in lengths if length), default=None)

    def _lost(self, server: Server, error: CaikitPtError) -> None:
        """It is asked last until it is well."""
        if self._replicas.rests(server):
            return
        self._replicas.lost(server, inf)
        _LOG.warning("%s. It is asked last until it is well", str(error).removesuffix(_AGAIN))
        _begin(partial(_check, self._replicas, server), self._checks)


async def _check(replicas: Replicas[Server], server: Server) -> None:
    """Again and again, until it is well."""
    while True:
        await asyncio.sleep(_SECONDS_TO_CHECK)
        try:
            await server.check()
        except BackendUnavailable:
            continue
        replicas.found(server)
        _LOG.info("%s is well, and asked again", server)
        return


def _all(errors: Sequence[CaikitPtError]) -> CaikitPtError:
    """What servers have failed with, one after the other, as one error."""
    if len(errors) == 1:
        return errors[0]
    full = all(isinstance(error, TooManyRequests) for error in errors)
    told = "; ".join(str(error).removesuffix(_AGAIN) for error in errors)
    return (TooManyRequests if full else BackendUnavailable)(f"No vLLM server answers: {told}{_AGAIN}")


def _begin(work: Callable[[], Awaitable[Result]], under_way: set[Future[Result]]) -> Future[Result]:
    """Meanwhile it is one of those `under_way`."""
    task = asyncio.run_coroutine_threadsafe(_done(work), _loop())
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    return task


def _cancel(tasks: set[Future[None]]) -> None:
    for task in list(tasks):
        task.cancel()


async def _done(work: Callable[[], Awaitable[Result]]) -> Result:
    # Called only here: a coroutine that is cancelled before it has begun would complain.
    return await work()


_LOOPS: list[asyncio.AbstractEventLoop] = []
_LOCK = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all servers, in a thread that starts with the first request."""
    with _LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            start(loop.run_forever, partial(loop.call_soon_threadsafe, loop.stop), "vllm")
            _LOOPS.append(loop)
        return _LOOPS[0]
