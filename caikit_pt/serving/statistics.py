"""What an engine has done since it began, in plain numbers: read when somebody asks, never sent.

The engine's thread writes, and of ends whoever ends a request; any may read: a reader sees every number as
it was at some moment, not all at the same one.
Buckets are those of vLLM, so that its dashboards read them.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.serving.request import FinishReason

if TYPE_CHECKING:
    from caikit_pt.serving.generation import Generation

# Upper bounds, in seconds or tokens.
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
NEXT_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TOKENS = tuple(mantissa * 10**exponent for exponent in range(5) for mantissa in (1, 2, 5))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# As vLLM calls the ends of answers; FAILED is what has no answer.
STOP, LENGTH, ABORT, FAILED = "stop", "length", "abort", "error"
_ENDS = {
    FinishReason.EOS_TOKEN: STOP,
    FinishReason.STOP_SEQUENCE: STOP,
    FinishReason.MAX_TOKENS: LENGTH,
    FinishReason.TOKEN_LIMIT: LENGTH,
    FinishReason.TIME_LIMIT: LENGTH,
}


class Histogram:
    """How many values were at most as large as each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        # Of the values above the bound before; the last ones are above all.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value` so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Statistics:
    """Of one engine. Times are seconds; tokens are those of texts and answers, without soft prompts."""

    def __init__(self) -> None:
        self.text_tokens = 0
        self.answer_tokens = 0
        self.ends = dict.fromkeys((STOP, LENGTH, ABORT, FAILED), 0)
        self.first_token = Histogram(FIRST_TOKEN)
        self.next_token = Histogram(NEXT_TOKEN)
        self.token_of_request = Histogram(NEXT_TOKEN)
        self.latency = Histogram(LATENCY)
        self.queued = Histogram(LATENCY)
        self.prefill = Histogram(LATENCY)
        self.decode = Histogram(LATENCY)
        self.text_of_request = Histogram(TOKENS)
        self.answer_of_request = Histogram(TOKENS)
        self.step_tokens = Histogram(ITERATION)
        self.step_rows = Histogram(ROWS)
        self.step_seconds = Histogram(STEP)
        self._tokens_before = 0
        self._ending = threading.Lock()

    # ---- what the engine tells of a step ----

    def read(self, generations: Sequence[Generation]) -> None:
        """Their texts have been read. A text that memory has made to be read again counts once."""
        now = time.monotonic()
        for generation in generations:
            if generation.read is None:
                generation.read = now
                self.text_tokens += len(generation.request.row.ids)

    def took(self, generations: Sequence[Generation]) -> None:
        """Each has got a token; rows that got their last one together have waited as long for this one."""
        now = time.monotonic()
        self.answer_tokens += len(generations)
        waited: dict[float | None, int] = {}
        for generation in generations:
            waited[generation.told] = waited.get(generation.told, 0) + 1
            generation.told = now
        for told, times in waited.items():
            if told is not None:
                self.next_token.observe(now - told, times)

    def stepped(self, seconds: float, rows: int) -> None:
        """A step is over, in which `rows` rows got a token."""
        tokens = self.text_tokens + self.answer_tokens
        self.step_tokens.observe(tokens - self._tokens_before)
        self._tokens_before = tokens
        self.step_seconds.observe(seconds)
        if rows:
            self.step_rows.observe(rows)

    # ---- what a request tells at its end ----

    def ended(self, generation: Generation) -> None:
        """Whatever its end is. Any thread may tell: who waits may be ended by who comes next."""
        with self._ending:
            self._count(generation)

    def _count(self, generation: Generation) -> None:
        end, answer = end_of(generation), len(generation.request.generated)
        self.ends[end] += 1
        if end in (ABORT, FAILED):
            return
        assert generation.ended_at is not None
        self.latency.observe(generation.ended_at - generation.arrived)
        self.text_of_request.observe(len(generation.request.row.ids))
        self.answer_of_request.observe(answer)
        if generation.taken is not None:
            self.queued.observe(generation.taken - generation.arrived)
        if generation.taken is not None and generation.read is not None:
            self.prefill.observe(generation.read - generation.taken)
            self.decode.observe(generation.ended_at - generation.read)
        if generation.first is not None:
            self.first_token.observe(generation.first - generation.arrived)
            if answer > 1:
                self.token_of_request.observe((generation.ended_at - generation.first) / (answer - 1))


def end_of(generation: Generation) -> str:
    """Of a generation that has ended: STOP, LENGTH, ABORT where nobody waited any more, FAILED."""
    if generation.error is not None:
        return FAILED
    return _ENDS.get(generation.request.finish_reason, ABORT)
