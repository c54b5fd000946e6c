"""Who wants to know what becomes of the requests that are submitted in its context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from caikit_pt.serving.generation import Generation

_FEW = 64


class Seen:
    """The first request, and sums of all: an evaluation has as many as it has records, and those that have
    ended aren't kept."""

    def __init__(self) -> None:
        self.first: Generation | None = None
        self.count = 0
        self.looks = True
        self._input_tokens = self._output_tokens = 0
        self._kept: list[Generation] = []
        self._most = _FEW

    @property
    def input_tokens(self) -> int:
        """Of all texts."""
        return self._input_tokens + sum(len(each.request.row.ids) for each in self._kept)

    @property
    def output_tokens(self) -> int:
        """Of all answers so far."""
        return self._output_tokens + sum(len(each.request.generated) for each in self._kept)

    def see(self, generation: Generation) -> None:
        """One more."""
        self.first = self.first or generation
        self.count += 1
        self._kept.append(generation)
        if len(self._kept) > self._most:
            self._add_up()

    def take(self, others: Seen) -> None:
        """What another has seen, too."""
        self.first = self.first or others.first
        self.count += others.count
        self._input_tokens += others._input_tokens
        self._output_tokens += others._output_tokens
        self._kept += others._kept
        self._add_up()

    def _add_up(self) -> None:
        kept = []
        for each in self._kept:
            if each.ended:
                self._input_tokens += len(each.request.row.ids)
                self._output_tokens += len(each.request.generated)
            else:
                kept.append(each)
        # Looked through again when there are twice as many: each is looked at some few times.
        self._kept, self._most = kept, max(_FEW, 2 * len(kept))


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)


@contextmanager
def witnessed() -> Iterator[Seen]:
    """What is submitted inside, by this thread; whoever looks around it sees it, too, at the end."""
    around, seen = _current(), Seen()
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        # Where a stream is closed by another thread than began it, that one's context stays as it is: whoever
        # no longer looks is passed over.
        seen.looks = False
        with suppress(ValueError):
            _SEEN.reset(token)
        if around is not None:
            around.take(seen)


def shown(generation: Generation) -> Generation:
    """`generation`, which whoever looks has seen now."""
    seen = _current()
    if seen is not None:
        seen.see(generation)
    return generation


def _current() -> Seen | None:
    seen = _SEEN.get()
    return seen if seen is not None and seen.looks else None
