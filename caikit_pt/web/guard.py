"""What every request goes through: from where it may come, how large it may be, what a browser is told."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from caikit_pt.client.server_error import ServerError
from caikit_pt.web.caller import token_of
from caikit_pt.web.link import Link
from caikit_pt.web.refusal import Refused, answer_to

# Nothing of others is loaded, run, framed or sent to: texts of models and records are text, whatever they
# hold.
_TOLD = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_ASKS_NOBODY = "The server behind this asks nobody who he is, and isn't for other machines (docs/web.md)"
_LOOKS = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")
_SECONDS_BETWEEN_LOOKS = 60.0
_SECONDS_FOR_MORE = 60.0
_SECONDS_KNOWN, _MOST_KNOWN = 10.0, 10_000
# Of JSON and small forms: parsed, it takes thirty times as much.
_MOST_AT_ONCE = 8 * 2**20


class Guard:
    """An ASGI application in front of another."""

    def __init__(self, inner: Any, names: Iterable[str], most_bytes: int, asks_who: bool, link: Any) -> None:
        """Browsers reach it by `names` besides loopback; a request has up to `most_bytes`. Where it
        `asks_who`, nobody is served who has no token, or behind whom is a server that takes any: `link` gives
        the Link to it."""
        self._inner, self._most_bytes = inner, most_bytes
        self._names = {name.strip().lower() for name in names if name.strip()}
        self._asks_who, self._link = asks_who, link
        self._refused_strangers = -_SECONDS_BETWEEN_LOOKS
        self._known: dict[bytes, float] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuses, or passes on."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        refusal = await self._refusal(HTTPConnection(scope))

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _TOLD.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal or self._within_bounds)(scope, receive, told)

    async def _refusal(self, request: HTTPConnection) -> Response | None:
        headers, method = request.headers, request.scope["method"]
        if not self._is_own_name(headers.get("host", "")):
            return _no("This is reached by the names of this machine's loopback, and by those in web.names")
        if method not in _LOOKS and not _is_of_own_page(headers, request.url.scheme):
            return _no("Pages of others may not ask this one to do anything")
        length = headers.get("content-length", "0")
        most = self._most(headers)
        if not length.isdecimal() or int(length) > most:
            return too_large(most)
        if self._asks_who:
            try:
                await self._check_who(token_of(request))
            except (Refused, ServerError) as error:
                return answer_to(error)
        return None

    async def _check_who(self, token: str) -> None:
        """Raises Refused, and ServerError where the server is away."""
        if not token:
            raise Refused("Say who you are: a token is needed", "authorization", "UNAUTHENTICATED")
        link: Link = self._link()
        if time.monotonic() > self._refused_strangers + _SECONDS_BETWEEN_LOOKS:
            if await link.lets_strangers_in():
                told = (
                    "The server behind this asks nobody who he is, and isn't for other machines (docs/web.md)"
                )
                raise Refused(told, status="PERMISSION_DENIED")
            self._refused_strangers = time.monotonic()
        # Before anything is done for him here; what he asks for, the server looks at again.
        who = hashlib.sha256(token.encode()).digest()
        if time.monotonic() > self._known.get(who, -_SECONDS_KNOWN) + _SECONDS_KNOWN:
            await link.check(token)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[who] = time.monotonic()

    def _most(self, headers: Headers) -> int:
        """Files come in forms; all else is read at once."""
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return self._most_bytes if is_form else min(self._most_bytes, _MOST_AT_ONCE)

    def _is_own_name(self, host: str) -> bool:
        """No name that somebody has made to lead here for the sake of a browser on this machine."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        name = name.lower()
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address is nobody's to point elsewhere; who is served at others than loopback has said who he is.
        return address.is_loopback or self._asks_who

    async def _within_bounds(self, scope: Any, receive: Any, send: Any) -> None:
        """A body may have no length said of it, and may never come."""
        seen, whole, most = 0, False, self._most(Headers(scope=scope))

        async def received() -> Mapping[str, Any]:
            nonlocal seen, whole
            try:
                # Behind its end comes only word that the client has left.
                async with asyncio.timeout(None if whole else _SECONDS_FOR_MORE):
                    message: Mapping[str, Any] = await receive()
            except TimeoutError:
                raise TooSlow from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > most:
                raise TooLarge(most)
            return message

        await self._inner(scope, received, send)


class TooLarge(Exception):
    """A request of more bytes than it may have."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(most_bytes)
        self.most_bytes = most_bytes


class TooSlow(Exception):
    """A request of which no more has come for a while."""


def too_slow() -> JSONResponse:
    """The response to it."""
    refused = answer_to(
        Refused(f"No more of this has come for {_SECONDS_FOR_MORE:g} seconds", reason="TOO_SLOW")
    )
    refused.status_code = 408
    return refused


def too_large(most_bytes: int) -> JSONResponse:
    """The response to it."""
    refused = answer_to(Refused(f"A request may have {most_bytes / 2**20:g} MiB", reason="TOO_LARGE"))
    refused.status_code = 413
    return refused


def _is_of_own_page(headers: Headers, scheme: str) -> bool:
    """Browsers say where a request comes from; programs, which nobody can talk into one, say nothing."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in _OWN
    return origin is None or origin == f"{scheme}://{headers.get('host', '')}"


def _no(text: str) -> JSONResponse:
    return answer_to(Refused(text, status="PERMISSION_DENIED"))
