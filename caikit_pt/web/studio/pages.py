"""Pages of HTML: templates in which every text is escaped, and refusals that a person can read."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import CaikitPtError
from caikit_pt.web.refusal import code_of, headers_of
from caikit_pt.web.studio import shown
from caikit_pt.web.studio.answers import Description
from caikit_pt.web.studio.server import Server, server_of

Handler = Callable[[Request], Awaitable[Response]]
_WEB = Path(__file__).resolve().parent.parent
STATIC = _WEB / "static"
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_SECONDS_DESCRIBED = 10.0
_MOST_DESCRIBED = 256
_HEADERS = {"cache-control": "no-store"}


def readable(handler: Handler) -> Handler:
    """A page whose refusals are pages, too."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except CaikitPtError as error:
            return _refused(request, error)

    return answer


async def page(request: Request, template: str, code: int = 200, **told: Any) -> Response:
    """The page of `template` with what is `told`. Raises ServerError where the server is away."""
    about = told.pop("about", None) or await described(request)
    made = _templates().get_template(template).render(about=about, path=request.url.path, **told)
    return HTMLResponse(made, code, _HEADERS)


async def described(request: Request, at_any_time: bool = False) -> Description:
    """What the server is to the caller, as it was some seconds ago; `at_any_time` before, where it is away.
    Raises ServerError."""
    known = kept(request, "described", dict)
    server = server_of(request)
    at, found = known.get(server.token, (0.0, None))
    if isinstance(found, Description) and time.monotonic() < at + _SECONDS_DESCRIBED:
        return found
    try:
        made = await server.described()
    except ServerError as error:
        if at_any_time and isinstance(found, Description) and error.status in AWAY:
            return found
        raise
    if len(known) >= _MOST_DESCRIBED:
        known.clear()
    known[server.token] = time.monotonic(), made
    return made


def kept(request: Request, name: str, made: Callable[[], Any]) -> Any:
    """What all requests of the application share by `name`."""
    state, key = request.app.state, f"studio_{name}"
    if not hasattr(state, key):
        setattr(state, key, made())
    return getattr(state, key)


def to(*parts: str) -> Response:
    """Another page of ours: each of `parts` is one of its path, whatever it holds."""
    return RedirectResponse(path_to(*parts), 303)


def path_to(*parts: str) -> str:
    """The path of which each of `parts` is one."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _refused(request: Request, error: CaikitPtError) -> Response:
    is_away = error.status in AWAY
    made = (
        _templates()
        .get_template("refused.html")
        .render(
            about=None,
            path=request.url.path,
            error=error,
            is_away=is_away,
            why="" if error.reason == "SERVER_AWAY" else str(error),
            comes_again=is_away and request.method == "GET",
            code=code_of(error),
            request_id=error.request_id if isinstance(error, ServerError) else "",
        )
    )
    return HTMLResponse(made, code_of(error), {**_HEADERS, **headers_of(error)})


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": shown.moment,
        "duration": shown.duration,
        "number": shown.number,
        "plain": shown.plain,
        "size": shown.size,
        "estimate": shown.estimate,
        "coded": shown.coded,
    }
    made.globals["path_to"] = path_to
    return made


__all__ = ["STATIC", "Handler", "Server", "described", "kept", "page", "path_to", "readable", "to"]
