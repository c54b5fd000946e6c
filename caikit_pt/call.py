"""The RPC that is being answered, for those who know nothing of gRPC: who asks, and whether he listens."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from caikit_pt.errors import ClientLeft
from caikit_pt.principal import Principal


def _nothing() -> None:
    """There is no quota."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC. `listen` has something called at its end, however that comes; false: it is over already."""

    id: str
    method: str
    # The host that asks, or its network: caller.py.
    client: str
    listen: Callable[[Callable[[], None]], bool]
    principal: Principal
    # Is told how many tokens were read and generated.
    spend: Callable[[int], None]
    # Raises QuotaExceeded where there are no tokens left for one more answer.
    check_tokens: Callable[[], None] = _nothing
    # Whether anybody waits for an answer.
    is_active: Callable[[], bool] = _always

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


def check_client() -> None:
    """Raises ClientLeft where this thread works for an RPC that is over: what goes on for long asks between
    its stages, for no thread can be ended from outside."""
    call = current()
    if call and not call.is_active():
        raise ClientLeft("Whoever asked for this has left, or waits no longer")


def current() -> Call | None:
    """The RPC that this thread answers; None in a thread that answers none, as in a script."""
    return _CURRENT.get()


def begin(call: Call) -> None:
    """From now on this thread answers `call`. Each RPC has a context of its own, which ends with it."""
    _CURRENT.set(call)
