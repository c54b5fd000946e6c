"""The RPC that is being answered, for those who know nothing of gRPC: who asks, and whether he listens."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. `listen` has something called at its end, however that comes; false: it is over already."""

    id: str
    method: str
    # The address of the host that asks.
    client: str
    listen: Callable[[Callable[[], None]], bool]

    def on_end(self, act: Callable[[], None]) -> None:
        """Has `act` called at the end, from another thread: it has to be quick."""
        if not self.listen(act):
            act()


_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


def current() -> Call | None:
    """The RPC that this thread answers; None in a thread that answers none, as in a script."""
    return _CURRENT.get()


def begin(call: Call) -> None:
    """From now on this thread answers `call`. Each RPC has a context of its own, which ends with it."""
    _CURRENT.set(call)
