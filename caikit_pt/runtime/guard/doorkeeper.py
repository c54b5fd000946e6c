"""Knows who may come in, what he may do, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from caikit_pt.principal import Principal
from caikit_pt.runtime.guard.door import Door
from caikit_pt.runtime.guard.identity import Identity
from caikit_pt.runtime.guard.policy import Policy
from caikit_pt.runtime.guard.quotas import Quotas
from caikit_pt.settings import Settings


class Doorkeeper:
    """Of one server."""

    def __init__(
        self, settings: Settings | None = None, own_certificate: Callable[[], bytes] | None = None
    ) -> None:
        """`own_certificate` of a server whose clients have to have one, too. Raises InvalidParameter."""
        settings = settings or Settings()
        self._identity = Identity(settings.access, own_certificate)
        self._policy, self._quotas = Policy(settings.access), Quotas(settings)

    def principal(self, context: Any) -> Principal:
        """Who asks. Raises Unauthenticated."""
        return self._policy.principal(
            self._identity.name(context.invocation_metadata(), context.auth_context)
        )

    def known(self, metadata: Iterable[tuple[str, Any]]) -> str:
        """The name of who asks, as far as a look tells it: whose turn it is is asked before anything else."""
        return self._identity.known(metadata)

    def begin(self, tenant: str, door: Door) -> Callable[[], None] | None:
        """Lets a request in; what is to be called once it has ended, if anything is. Raises QuotaExceeded,
        OverCapacity."""
        return self._quotas.begin(tenant, door)

    def check_tokens(self, tenant: str) -> Callable[[], None]:
        """What raises QuotaExceeded where he has no tokens left."""
        return partial(self._quotas.check_tokens, tenant)

    def spend(self, tenant: str) -> Callable[[int], None]:
        """What is told how many tokens were read or generated for him."""
        return partial(self._quotas.spend, tenant)
