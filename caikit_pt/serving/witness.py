"""Who wants to know what becomes of the requests that are submitted in its context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from caikit_pt.serving.generation import Generation


class _Witness:
    """What it has seen, for as long as it looks."""

    def __init__(self) -> None:
        self.seen: list[Generation] = []
        self.looks = True


_WITNESS: ContextVar[_Witness | None] = ContextVar("witness", default=None)


@contextmanager
def witnessed() -> Iterator[list[Generation]]:
    """What is submitted inside, by this thread; whoever looks around it sees it, too, at the end."""
    around, witness = _current(), _Witness()
    token = _WITNESS.set(witness)
    try:
        yield witness.seen
    finally:
        # Where a stream is closed by another thread than began it, that one's context stays as it is: whoever
        # no longer looks is passed over.
        witness.looks = False
        with suppress(ValueError):
            _WITNESS.reset(token)
        if around is not None:
            around.seen += witness.seen


def shown(generation: Generation) -> Generation:
    """`generation`, which whoever looks has seen now."""
    witness = _current()
    if witness is not None:
        witness.seen.append(generation)
    return generation


def _current() -> _Witness | None:
    witness = _WITNESS.get()
    return witness if witness is not None and witness.looks else None
