"""Who wants to know what becomes of the requests that are submitted in its context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from caikit_pt.serving.generation import Generation

_SEEN: ContextVar[list[Generation] | None] = ContextVar("seen", default=None)


@contextmanager
def witnessed() -> Iterator[list[Generation]]:
    """What is submitted inside, by this thread; whoever looks around it sees it, too, at the end."""
    around, seen = _SEEN.get(), list[Generation]()
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)
        if around is not None:
            around += seen


def shown(generation: Generation) -> Generation:
    """`generation`, which whoever looks has seen now."""
    seen = _SEEN.get()
    if seen is not None:
        seen.append(generation)
    return generation
