"""The server that is asked, by gRPC and without a thread for each request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from caikit_pt.client.connection import Stubs
from caikit_pt.client.request import MESSAGE_BYTES
from caikit_pt.client.retries import Tries, options
from caikit_pt.client.security import Security
from caikit_pt.client.server_error import ServerError, server_error

AWAY = "The server is away. Try again in a while"
_OF_GRPC = ("connect", "backend", "socket", "goaway", "ipv4:", "ipv6:", "resol")
# For whatever isn't a stream: an answer of the server's longest takes less.
_SECONDS = 300.0
# What a caller can do about it here.
_HINTS = {"UNAUTHENTICATED": " (the API key of a client; the password that a browser asks for)"}


class Link:
    """A connection to the server at `address`, which comes again by itself where that was away.

    Made in the event loop that uses it. Each call says by whose `token` it asks: what the server lets that
    caller do is all that can be done here.
    """

    def __init__(self, address: str, security: Security) -> None:
        """Raises InvalidParameter for an address or certificates that can't be used."""
        import grpc.aio

        self.address = address
        # A server that knows tokens goes by the certificate of whoever has none, which here is everybody's.
        self._stranger = secrets.token_hex(16) if security.cert else ""
        security.check(address)
        self._channel = security.channel(address, options(MESSAGE_BYTES), grpc.aio)
        self.stubs = Stubs(self._channel)

    async def close(self) -> None:
        """Lets go of it."""
        await self._channel.close()

    async def answer(
        self, rpc: Any, request: Any, token: str, model_name: str = "", seconds: float = _SECONDS
    ) -> Any:
        """The answer to `request`. Raises ServerError."""
        import grpc

        try:
            return await rpc(request, metadata=self._metadata(token, model_name), timeout=seconds)
        except grpc.RpcError as error:
            raise _told(error) from error

    async def stream(self, rpc: Any, request: Any, token: str, model_name: str = "") -> AsyncIterator[Any]:
        """The answers to `request`, as they come; asked for again only as long as none has come. Whoever
        stops listening ends them. Raises ServerError."""
        import grpc

        tries = Tries()
        while True:
            call, begun = rpc(request, metadata=self._metadata(token, model_name)), False
            try:
                async for message in call:
                    begun = True
                    yield message
                return
            except grpc.RpcError as error:
                pause = tries.pause_after(_told(error), begun)
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def check(self, token: str) -> None:
        """Raises ServerError where the server doesn't know whose it is, or is away."""
        from caikit_pt.runtime.tuning_messages import DescribeRequest

        await self.answer(self.stubs.tuning.Describe, DescribeRequest().to_proto(), token, seconds=10.0)

    async def lets_strangers_in(self) -> bool:
        """Whether the server answers with whatever token somebody makes up. Raises ServerError where it is
        away."""
        try:
            await self.check(secrets.token_hex(16))
        except ServerError as error:
            if error.status == "UNAUTHENTICATED":
                return False
            raise
        return True

    def _metadata(self, token: str, model_name: str) -> list[tuple[str, str]]:
        token = token or self._stranger
        known = [("authorization", f"Bearer {token}")] if token else []
        return [*known, *([("mm-model-id", model_name)] if model_name else [])]


def _told(error: Any) -> ServerError:
    """What of gRPC's own texts says addresses, and how it came about, is nothing for a caller."""
    made = server_error(error, _HINTS)
    if made.status == "UNAVAILABLE" and any(part in str(made).lower() for part in _OF_GRPC):
        made = ServerError(made.status, AWAY)
        made.reason = "SERVER_AWAY"
    return made
