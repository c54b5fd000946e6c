"""A request on its way through an engine, as the one who waits for its answer sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

from caikit_pt.call import current as current_call
from caikit_pt.serving.request import Request, Step

# Who waits wakes up so often, in seconds: an exception that is raised in a thread gets through then.
_NAP = 0.1


class Generation:
    """What an engine does for one request. The engine's thread writes, another one reads."""

    def __init__(self, request: Request, on_end: Callable[[Generation], object] | None = None) -> None:
        """`on_end` is called once, by whoever ends it. Raises QuotaExceeded where whoever asks has no tokens
        left: an evaluation is one request, and asks for as many answers as it likes."""
        self.request = request
        # Whose turn it takes, and who is told of its tokens.
        call = current_call()
        if call:
            call.check_tokens()
        self.tenant = call.tenant if call else ""
        self._spend = call.spend if call else None
        # When things happened to it, of time.monotonic(); None: they haven't.
        self.arrived = time.monotonic()
        self.taken: float | None = None  # out of the queue, for the first time
        self.read: float | None = None  # all of its text
        self.first: float | None = None  # its first step was told
        self.told: float | None = None  # its last token was taken
        self.ended_at: float | None = None
        # It has failed in company, and is tried once more without.
        self.alone = False
        self.cancelled = False
        # It has left its row to somebody else, and waits for another behind him.
        self.gave_way = False
        self.error: BaseException | None = None
        self._on_end = on_end
        self._ended = threading.Event()
        self._news: threading.Event | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    @property
    def has_run(self) -> bool:
        """Whether its turn has come once; from then on it doesn't wait too long."""
        return self.taken is not None

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, once it has or so many seconds have passed."""
        return self._ended.wait(seconds)

    def result(self) -> Request:
        """The finished request; waits for it. Raises what the engine failed with."""
        try:
            while not self._ended.wait(_NAP):
                pass
        finally:
            self.cancel()
        if self.error:
            raise self.error
        return self.request

    def steps(self) -> Generator[Step]:
        """Each step as soon as it is taken; a reader who leaves cancels the rest.

        Steps wait in the request for a slow reader: no more of them than tokens it may have.
        """
        self._news = news = threading.Event()
        sent = 0
        try:
            while True:
                news.clear()
                ended = self.ended
                while sent < len(self.request.steps):
                    yield self.request.steps[sent]
                    sent += 1
                if ended:
                    break
                news.wait(_NAP)
        finally:
            self.cancel()
        if self.error:
            raise self.error

    def cancel(self) -> None:
        """Nobody wants the rest: it leaves its batch before the next step. Nothing where it has ended."""
        self.cancelled = True

    # ---- the engine's side ----

    def tell(self) -> None:
        """A step has been taken, or the last one."""
        if self.first is None and self.request.steps:
            self.first = time.monotonic()
        if self.request.finished:
            self._end()
        if self._news:
            self._news.set()

    def fail(self, error: BaseException | None = None) -> None:
        """Ends without a finished answer; without an error where nobody waits any more."""
        self.error = error
        self._end()
        if self._news:
            self._news.set()

    def _end(self) -> None:
        # Who waits finds the time of the end, and that it is counted.
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            if self._on_end:
                self._on_end(self)
            # Of what never had its turn there is nothing.
            if self._spend and (self.has_run or self.request.generated):
                self._spend(len(self.request.row.ids) + len(self.request.generated))
        self._ended.set()
