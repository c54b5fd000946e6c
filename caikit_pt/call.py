"""The RPC that is being answered, for those who know nothing of gRPC: who asks, and whether he listens."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from caikit_pt.principal import Principal


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. `listen` has something called at its end, however that comes; false: it is over already."""

    id: str
    method: str
    # The address of the host that asks.
    client: str
    listen: Callable[[Callable[[], None]], bool]
    principal: Principal
    # Is told how many tokens were read and generated.
    spend: Callable[[int], None]

    @property
    def tenant(self) -> str:
        """Whose turn it is, and whose quotas count: the principal's, or the host's where nobody has to say
        who he is."""
        return self.principal.name or self.client

    def on_end(self, act: Callable[[], None]) -> None:
        """Has `act` called at the end, from another thread: it has to be quick."""
        if not self.listen(act):
            act()


_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


def may(action: str, model: str) -> bool:
    """Whether whoever asks may do this; where nobody asks, as in a script, everything may be done."""
    call = current()
    return call is None or call.principal.may(action, model)


def tenant() -> str:
    """That of the RPC which this thread answers; empty where it answers none."""
    call = current()
    return call.tenant if call else ""


def current() -> Call | None:
    """The RPC that this thread answers; None in a thread that answers none, as in a script."""
    return _CURRENT.get()


def begin(call: Call) -> None:
    """From now on this thread answers `call`. Each RPC has a context of its own, which ends with it."""
    _CURRENT.set(call)
