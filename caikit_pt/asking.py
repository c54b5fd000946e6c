"""Many questions to a server at once, with the answers in their order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from caikit_pt.errors import CaikitPtError
from caikit_pt.settings import Settings

# What an engine answers in one batch by default.
IN_FLIGHT = Settings().max_batch_size
# Questions in memory, in questions that may be under way: answers wait for a slow one in front of them.
_HELD = 4
# The server is gone for now: whoever waits may ask again.
LOST = ("UNAVAILABLE", "CANCELLED")
# A server that has more to do than it can, and may have less to do soon.
_BUSY = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
_OF_THE_QUESTION = ("INVALID_ARGUMENT", *_BUSY, "INTERNAL", "UNKNOWN")
_MOST_REFUSALS = 30
_SECONDS_BETWEEN_TRIES = 1.0
# A quota of a minute is there again then.
_MOST_SECONDS_BETWEEN_TRIES = 61.0
_SECONDS_TO_COME_BACK = 600.0

Answer = dict[str, Any]


class Call(Protocol):
    """A question under way."""

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        """Calls `tell` when it has ended, in whatever thread."""

    def result(self) -> Answer:
        """Raises CaikitPtError with the status of the server."""

    def cancel(self) -> object:
        """Nobody waits for it any more."""


@dataclass(slots=True, eq=False)
class _Question:
    text: str
    call: Call | None = None
    refusals: int = 0
    answer: Answer | CaikitPtError | None = None


class Asking:
    """At most `in_flight` questions are under way, and four times as many in memory.

    A server that goes away is asked again every second, for ten minutes, and `on_lost` is called when that
    begins; one that is too busy for a question is asked it again thirty times, each when it says so.
    """

    def __init__(
        self,
        ask: Callable[[str], Call],
        in_flight: int = IN_FLIGHT,
        on_lost: Callable[[CaikitPtError], None] | None = None,
    ) -> None:
        self._ask, self._in_flight, self._on_lost = ask, in_flight, on_lost
        self._asked: deque[_Question] = deque()
        self._again: deque[_Question] = deque()
        self._ended: SimpleQueue[_Question] = SimpleQueue()
        self._open = 0
        self._answered = False
        self._pause = 0.0
        self._lost_since: float | None = None

    def answers(self, texts: Iterable[str]) -> Iterator[Answer | CaikitPtError]:
        """The answer to each of `texts`, in their order, or why there is none.

        `texts` is read as questions are sent. Raises CaikitPtError for what isn't the question's fault.
        """
        unread = iter(texts)
        try:
            self._send(unread)
            while self._asked:
                answer = self._asked[0].answer
                if answer is None:
                    self._take(self._ended.get())
                else:
                    self._asked.popleft()
                    yield answer
                self._take_the_rest()
                self._send(unread)
        finally:
            for question in self._asked:
                if question.call is not None:
                    question.call.cancel()

    def _send(self, unread: Iterator[str]) -> None:
        if self._again:
            time.sleep(min(max(_SECONDS_BETWEEN_TRIES, self._pause), _MOST_SECONDS_BETWEEN_TRIES))
            self._pause = 0.0
        while self._open < self._in_flight:
            if self._again:
                question = self._again.popleft()
            elif len(self._asked) < _HELD * self._in_flight and (text := next(unread, None)) is not None:
                question = _Question(text)
                self._asked.append(question)
            else:
                return
            self._open += 1
            question.call = self._ask(question.text)
            question.call.add_done_callback(partial(self._end, question))

    def _end(self, question: _Question, _: object) -> None:
        self._ended.put(question)

    def _take_the_rest(self) -> None:
        while True:
            try:
                self._take(self._ended.get_nowait())
            except Empty:
                return

    def _take(self, question: _Question) -> None:
        """Raises CaikitPtError."""
        assert question.call is not None
        self._open -= 1
        try:
            question.answer = question.call.result()
        except CaikitPtError as error:
            question.refusals += error.status in _BUSY
            if error.status in LOST:
                self._wait(error)
                self._again.append(question)
            elif error.status in _BUSY and question.refusals < _MOST_REFUSALS:
                self._pause = max(self._pause, error.retry_seconds or 0.0)
                self._again.append(question)
            elif error.status in _OF_THE_QUESTION:
                question.answer = error
            else:
                raise
        else:
            self._answered, self._lost_since = True, None

    def _wait(self, error: CaikitPtError) -> None:
        """Raises `error` where nobody has ever answered, or nobody does any more."""
        if not self._answered:
            raise error
        if self._lost_since is None:
            self._lost_since = time.monotonic()
            if self._on_lost:
                self._on_lost(error)
        if time.monotonic() - self._lost_since > _SECONDS_TO_COME_BACK:
            raise error
