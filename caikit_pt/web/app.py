"""The application: its parts, what they share, and how their errors are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from caikit_pt.client.security import Security
from caikit_pt.errors import CaikitPtError
from caikit_pt.settings import Web
from caikit_pt.web.guard import Guard, TooLarge, TooSlow, too_large, too_slow
from caikit_pt.web.link import Link
from caikit_pt.web.refusal import answer_to

_REQUEST_MIB = 1  # beside the file that it brings


@dataclass(slots=True)
class Door:
    """What all requests share."""

    now: Web
    security: Security
    # Whether nobody is served who doesn't say who he is.
    asks_who: bool = False
    _link: Link | None = field(default=None, repr=False)

    @property
    def link(self) -> Link:
        """The server that is asked."""
        assert self._link is not None, "the application hasn't started"
        return self._link

    @asynccontextmanager
    async def open(self, _: Starlette) -> AsyncIterator[None]:
        """While the application runs."""
        self._link = Link(self.now.server, self.security)
        try:
            yield
        finally:
            await self._link.close()


def app(door: Door, routes: list[BaseRoute]) -> Any:
    """An ASGI application of `routes`, each of which finds `door` as `request.app.state.door`."""
    most = (door.now.max_file_mib + _REQUEST_MIB) * 2**20

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, CaikitPtError)
        return answer_to(error)

    async def larger(_: Request, error: Exception) -> Response:
        assert isinstance(error, TooLarge)
        return too_large(error.most_bytes)

    async def slower(_: Request, __: Exception) -> Response:
        return too_slow()

    told = {CaikitPtError: refused, TooLarge: larger, TooSlow: slower}
    inner = Starlette(routes=routes, lifespan=door.open, exception_handlers=told)
    inner.state.door = door
    return Guard(inner, door.now.names.split(","), most, door.asks_who, lambda: door.link)
