"""What is refused before a route is asked: where a request comes from, who sends it, and how large it is."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from caikit_pt.client import ServerError
from caikit_pt.errors import CaikitPtError
from caikit_pt.web.caller import token_of
from caikit_pt.web.guard import Guard, TooLarge, TooSlow, too_large
from caikit_pt.web.refusal import Refused, answer_to

MOST = 1000


class Behind:
    """A server that lets strangers in, or is away."""

    def __init__(self, open: bool = False) -> None:
        self.open, self.away, self.asked, self.checked = open, False, 0, 0

    async def check(self, token: str) -> None:
        self.checked += 1
        if token == "stranger":
            raise ServerError("UNAUTHENTICATED", "nobody knows him")

    async def lets_strangers_in(self) -> bool:
        self.asked += 1
        if self.away:
            raise ServerError("UNAVAILABLE", "nobody is there")
        return self.open


async def _echo(request: Request) -> Response:
    return PlainTextResponse(f"{token_of(request)} {len(await request.body())}")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, TooLarge)
    return too_large(error.most_bytes)


@contextmanager
def guarded(
    names: str = "", asks_who: bool = False, behind: Behind | None = None, host: str = "localhost"
) -> Iterator[TestClient]:
    routes = [Route("/", _echo, methods=["GET", "POST"])]
    inner = Starlette(routes=routes, exception_handlers={TooLarge: _refused})
    guard = Guard(inner, names.split(","), MOST, asks_who, lambda: behind or Behind())
    with TestClient(guard, base_url=f"http://{host}") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8087", "127.1.2.3", "[::1]:80", "a.localhost", "tune.org"]
)
def test_it_is_reached_by_its_names(host: str) -> None:
    with guarded("tune.org, other.org") as client:
        assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.org", "10.0.0.1", "localhost.evil.org", "", "[::2]", "127.0.0.1.evil.org", "x:y"]
)
def test_a_name_that_somebody_leads_here_is_none_of_them(host: str) -> None:
    """A page of another site would read everything else, once its name means this machine."""
    with guarded("tune.org") as client:
        refused = client.get("/", headers={"host": host})
        assert refused.status_code == 403
        assert "web.names" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:1"}, 403),
        ({"origin": "https://localhost"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.org"}, 403),
    ],
)
def test_pages_of_others_change_nothing(headers: dict[str, str], code: int) -> None:
    with guarded() as client:
        assert client.post("/", headers=headers).status_code == code
        assert client.get("/", headers=headers).status_code == 200


def test_a_request_has_its_bounds() -> None:
    with guarded() as client:
        assert client.post("/", content=b"x" * MOST).text.split() == [str(MOST)]
        for content in (b"x" * (MOST + 1), iter([b"x" * MOST, b"y"])):
            refused = client.post("/", content=content)
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "too_large"
        assert client.post("/", headers={"content-length": "many"}).status_code in (400, 413)


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caikit_pt.web.guard._SECONDS_FOR_MORE", 0.01)

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(10)
        raise AssertionError("nobody waits so long")

    async def read(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(TooSlow):
            await receive()

    guard = Guard(read, (), MOST, False, None)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard({**scope, "scheme": "http", "query_string": b""}, slowly, None))


def test_every_answer_tells_a_browser_what_it_may_do() -> None:
    with guarded() as client:
        for answer in (client.get("/"), client.get("/", headers={"host": "evil.org"}), client.get("/none")):
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "set-cookie" not in answer.headers


# ---- who asks ----


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc", "abc"),
        ("Bearer", ""),
        ("Bearer a b", ""),
        ("Basic " + base64.b64encode(b"any:abc").decode(), "abc"),
        ("Basic " + base64.b64encode(b":a:b").decode(), "a:b"),
        ("Basic " + base64.b64encode(b"any").decode(), ""),
        ("Basic " + base64.b64encode("any:\u00e4".encode()).decode(), ""),
        ("Basic " + base64.b64encode(b"any:a\nb").decode(), ""),
        ("Basic %%%", ""),
        ("Digest abc", ""),
    ],
)
def test_a_token_is_what_a_client_or_a_browser_sends(header: str, token: str) -> None:
    with guarded() as client:
        assert client.get("/", headers={"authorization": header}).text == f"{token} 0"


def test_nobody_is_served_to_other_machines_who_does_not_say_who_he_is() -> None:
    behind = Behind()
    with guarded("tune.org", asks_who=True, behind=behind, host="tune.org") as client:
        refused = client.get("/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        known = {"authorization": "Bearer abc"}
        assert client.get("/", headers=known).text == "abc 0"
        assert client.get("/", headers=known).status_code == 200
        # It is asked now and then, not each time.
        assert (behind.asked, behind.checked) == (1, 1)
        assert client.get("/", headers={"authorization": "Bearer stranger"}).status_code == 401
        assert client.get("/", headers={**known, "host": "10.0.0.1"}).status_code == 200


def test_a_server_that_takes_anybody_is_not_served_to_other_machines() -> None:
    """Whatever token somebody makes up would do."""
    behind = Behind(open=True)
    with guarded(asks_who=True, behind=behind) as client:
        refused = client.get("/", headers={"authorization": "Bearer abc"})
        assert refused.status_code == 403
        assert "asks nobody who he is" in refused.json()["error"]["message"]
        behind.away = True
        assert client.get("/", headers={"authorization": "Bearer abc"}).status_code == 503


# ---- errors ----


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("INVALID_ARGUMENT", 400, "invalid_request_error"),
        ("UNAUTHENTICATED", 401, "authentication_error"),
        ("PERMISSION_DENIED", 403, "permission_error"),
        ("NOT_FOUND", 404, "not_found_error"),
        ("RESOURCE_EXHAUSTED", 429, "rate_limit_error"),
        ("UNAVAILABLE", 503, "server_error"),
        ("INTERNAL", 500, "server_error"),
        ("SOMETHING_NEW", 500, "server_error"),
    ],
)
def test_errors_have_the_status_and_the_shape_that_clients_know(status: str, code: int, kind: str) -> None:
    error: Any = ServerError(status, "told")
    error.field, error.reason, error.retry_seconds = "max_tokens", "INVALID_PARAMETER", 2.4
    answer = answer_to(error)
    assert answer.status_code == code
    told = {"message": "told", "type": kind, "param": "max_tokens", "code": "invalid_parameter"}
    assert json.loads(bytes(answer.body)) == {"error": told}
    assert answer.headers["retry-after"] == "2"
    assert ("www-authenticate" in answer.headers) == (code == 401)


def test_what_is_refused_here_is_an_error_of_this_package() -> None:
    assert isinstance(Refused("no", "field"), CaikitPtError)
    assert answer_to(Refused("no", "field")).status_code == 400
