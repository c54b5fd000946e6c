"""Every page as a browser without scripts has it."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import httpx2
import pytest

from tests.web.studio.html import Page
from tests.web.studio.standin import HOSTILE, OUTCOME_TEXT, TOKEN, StandIn

PAGES = (
    "/",
    "/?state=RUNNING&name=name-running",
    "/trainings/running",
    "/trainings/done",
    "/trainings/hostile",
    "/compare?id=done&id=running",
    "/compare?id=done&id=hostile&id=running",
    "/prompts",
    "/prompts/mood",
    "/sources",
    "/sources/support/2",
    "/new",
    "/new?from=done",
    "/new?go_on_from=mood",
)


@pytest.mark.parametrize("path", PAGES)
def test_pages(web: httpx2.Client, path: str) -> None:
    """Each has what a screen reader needs; nothing in it is markup but the page's own."""
    answer = web.get(path)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    page.check()
    assert "alert(" not in " ".join(script.get("src", "") for script in page.all("script"))
    assert not page.all("img")
    assert answer.text.count("<script") == len(page.all("script"))
    assert "&49" not in page.text
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


def test_hostile_texts(web: httpx2.Client) -> None:
    """Names, reasons, events, labels, the caller and a manifest are text."""
    for path in ("/", "/trainings/hostile", "/prompts/mood", "/sources/support/2"):
        answer = web.get(path)
        assert HOSTILE not in answer.text
        assert HOSTILE in Page(answer.text).text or "\\u003c" in answer.text


def test_list(web: httpx2.Client, standin: StandIn) -> None:
    """The latest first; by state and name; a page of 100 has a link to the next."""
    page = Page(web.get("/").text)
    ids = [row["data-id"] for row in page.all("tr") if row.get("data-id")]
    assert ids == ["running", "done", "hostile"]
    only = Page(web.get("/?state=COMPLETED").text)
    assert [row["data-id"] for row in only.all("tr") if row.get("data-id")] == ["done"]
    assert "No training like this" in Page(web.get("/?name=nobody").text).text
    for number in range(100):
        standin.add(f"more-{number}")
    (link,) = (one for one in Page(web.get("/?state=RUNNING").text).all("a") if one.get("rel") == "next")
    later = Page(web.get(link["href"]).text)
    assert [row["data-id"] for row in later.all("tr") if row.get("data-id")] == ["running"]


def test_a_thousand_trainings(web: httpx2.Client, standin: StandIn) -> None:
    """What the page takes of this process's time for 1,000 of them is no second, by far."""
    for number in range(1000):
        standin.add(f"more-{number}", state="COMPLETED", ended=datetime(2026, 1, 3, tzinfo=UTC))
    web.get("/")
    began = time.process_time()
    assert web.get("/").status_code == 200
    assert time.process_time() - began < 1


def test_training(web: httpx2.Client) -> None:
    """The verdict in words, curves, parameters with their origins, what may be done."""
    page = Page(web.get("/trainings/done").text)
    assert OUTCOME_TEXT in page.text
    assert "num_epochs 7 request" in page.text
    assert page.by_id("losses")["role"] == "img"
    assert len(page.all("polyline")) >= 2
    assert "validation at update 9, metrics of 32 of 60 records: accuracy 0.5000" in page.text
    assert all("hidden" in form for form in page.all("form") if "data-does" in form)
    going_on = Page(web.get("/trainings/running").text)
    shown = [
        form["data-does"] for form in going_on.all("form") if "data-does" in form and "hidden" not in form
    ]
    assert shown == ["pause"]


def test_what_may_be_done(web: httpx2.Client, standin: StandIn) -> None:
    """Pause, resume and cancel lead back to the training."""
    for what, state in (("pause", "PAUSED"), ("resume", "QUEUED"), ("cancel", "CANCELED")):
        answer = web.post(f"/trainings/running/{what}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/trainings/running")
        assert standin.trainings[0]["state"] == state
        assert state.lower() in Page(web.get("/trainings/running").text).text


def test_a_prompt_is_removed(web: httpx2.Client, standin: StandIn) -> None:
    """By a button that is asked twice; it leads back to the list."""
    forms = [form["action"] for form in Page(web.get("/prompts/mood").text).all("form")]
    assert "/prompts/mood/remove" in forms
    answer = web.post("/prompts/mood/remove")
    assert (answer.status_code, answer.headers["location"]) == (303, "/prompts")
    assert standin.removed == ["mood"]
    assert web.get("/prompts/mood/remove").status_code == 405
    refused = web.post("/prompts/gone/remove")
    assert refused.status_code == 404
    assert "No prompt is called 'gone'" in Page(refused.text).text


def test_no_page_of_others_may_ask(web: httpx2.Client, standin: StandIn) -> None:
    """Nor does one lead elsewhere."""
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        for path in ("/trainings/running/cancel", "/prompts/mood/remove"):
            assert web.post(path, headers=headers).status_code == 403
    assert standin.trainings[0]["state"] == "RUNNING"
    assert not standin.removed
    answer = web.post("/trainings/%2f%2fevil.example/pause")
    assert "evil.example" not in answer.headers.get("location", "")


def test_refusals(web: httpx2.Client) -> None:
    """They are pages, with the status that they have."""
    for path, code, told in (
        ("/trainings/nope", 404, "No training has the id 'nope'"),
        ("/compare?id=done", 400, "2 to 4 trainings"),
        ("/prompts/gone/artifact.tar", 404, "No prompt is called 'gone'"),
    ):
        answer = web.get(path)
        assert answer.status_code == code
        page = Page(answer.text)
        page.check()
        assert told in page.text


def test_who_asks(web: httpx2.Client, standin: StandIn) -> None:
    """A browser is asked for a token, and sends it as a password."""
    standin.needs_token = True
    answer = web.get("/")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    Page(answer.text).check()
    told = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    assert web.get("/", headers={"authorization": f"Basic {told}"}).status_code == 200
    assert web.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert web.get("/").status_code == 401


def test_server_away(web: httpx2.Client, standin: StandIn) -> None:
    """The page says so, asks again by itself, and tells no address."""
    standin.stop()
    answer = web.get("/trainings/running")
    assert answer.status_code == 503
    page = Page(answer.text)
    page.check()
    assert "The server is away" in page.text
    assert str(standin.port) not in page.text
    assert {"http-equiv": "refresh", "content": "5"} in page.all("meta")
    posted = web.post("/trainings/running/pause")
    assert {"http-equiv": "refresh", "content": "5"} not in Page(posted.text).all("meta")
    standin.start(standin.port)
    deadline = time.monotonic() + 60
    while web.get("/trainings/running").status_code != 200:
        assert time.monotonic() < deadline


def test_static(web: httpx2.Client) -> None:
    """Style, scripts and the icon have their types; nothing else lies there."""
    for name, kind in (("studio.css", "text/css"), ("training.js", "javascript"), ("icon.svg", "svg")):
        answer = web.get(f"/static/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
    for name in ("../app.py", "%2e%2e/app.py", ""):
        assert web.get(f"/static/{name}").status_code == 404
