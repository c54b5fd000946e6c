"""`caikit-pt web`: where it listens, and whether it may."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import FrameType

from starlette.routing import BaseRoute

from caikit_pt.client.security import Security, is_loopback
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Web, as_set
from caikit_pt.web import openai, studio
from caikit_pt.web.app import Door, app
from caikit_pt.web.sse import end_all

_GRACE_SECONDS = 10
_MOST_CONNECTIONS = 1000


def serve(now: Web, security: Security, allow_insecure: bool) -> None:
    """Until it is told to end. Raises InvalidParameter for settings that would let in whoever comes."""
    import uvicorn

    _check(now, allow_insecure)
    # Those of whoever asks go along.
    replace(security, token="any").check(now.server)
    door = Door(now, security, asks_who=not is_loopback(now.host) and not allow_insecure)
    config = uvicorn.Config(
        app(door, routes()),
        host=now.host,
        port=now.port,
        ssl_certfile=now.cert or None,
        ssl_keyfile=now.key or None,
        lifespan="on",
        log_level="info",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=65_536,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )

    class Ending(uvicorn.Server):
        """Who follows something live would hold up its end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """At a signal, in the thread of the event loop."""
            asyncio.get_running_loop().call_soon_threadsafe(end_all)
            super().handle_exit(sig, frame)

    Ending(config).run()


def routes() -> list[BaseRoute]:
    """Of all parts."""
    return [
        *openai.routes(),
        *studio.routes(),
    ]


def _check(now: Web, allow_insecure: bool) -> None:
    if is_loopback(now.host) or allow_insecure or now.key:
        return
    allowed = (
        "localhost, or another one with web.key and web.cert: tokens would go over the network as they are. "
        "allow_insecure: true is for what stands behind something that ends TLS"
    )
    raise InvalidParameter(as_set("web.host"), now.host, allowed)
