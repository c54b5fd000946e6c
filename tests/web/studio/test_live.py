"""What is live: shared by pages, gone on with behind what a page has seen, and there after an outage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from caikit_pt.web.studio import hub
from tests.web.studio.sse import heard
from tests.web.studio.standin import HOSTILE, TOKEN, VERDICT, StandIn

EVENTS = "/studio/trainings/running/events"
Heard = Iterator[tuple[str, str, Any]]


def until(events: Heard, seen: Callable[[str, Any], bool]) -> tuple[str, Any]:
    """The first that is looked for."""
    return next((kind, data) for kind, _, data in events if seen(kind, data))


def numbers(events: Heard, count: int) -> list[str]:
    """The ids of the next that have one."""
    found: list[str] = []
    while len(found) < count:
        _, id, _ = next(events)
        found += [id] if id else []
    return found


def test_resumption(web: httpx2.Client, standin: StandIn) -> None:
    """All events from the first on, or those behind the one that was seen last, as they come."""
    standin.progresses("running", 2, 10, [3.0, 2.0])
    with heard(web, EVENTS) as events:
        assert numbers(events, 3) == ["1", "2", "3"]
        standin.progresses("running", 3, 10, [1.5])
        _, told = until(events, lambda kind, data: data.get("number") == 4)
        assert told["points"] == [[3, 1.5]]
        assert told["progress"] == {"step": 3, "steps": 10, "where": "update 3 of 10, about 3.0 s to go"}
    with heard(web, EVENTS, headers={"last-event-id": "3"}) as events:
        assert numbers(events, 1) == ["4"]
    with heard(web, f"{EVENTS}?from=2") as events:
        assert numbers(events, 2) == ["3", "4"]
    with heard(web, f"{EVENTS}?from=nonsense") as events:
        assert numbers(events, 1) == ["1"]


def test_pages_share_a_watch(web: httpx2.Client, standin: StandIn) -> None:
    """Twelve pages of one caller are one watch, and see the same; another caller has his own."""
    with ExitStack() as stack:
        pages = [stack.enter_context(heard(web, EVENTS)) for _ in range(12)]
        standin.happens("running", "warning", text="a new thing")
        for events in pages:
            until(events, lambda kind, data: "a new thing" in data.get("told", ""))
        assert standin.watches == standin.calls["WatchTraining"] == 1
        other = stack.enter_context(heard(web, EVENTS, headers={"authorization": f"Bearer {TOKEN}"}))
        assert numbers(other, 3) == ["1", "2", "3"]
        assert standin.watches == 2


def test_what_is_no_longer_kept(
    web: httpx2.Client, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that has seen less than is kept gets the rest from the server, each event once."""
    monkeypatch.setattr(hub, "_MOST_EVENTS", 3)
    for number in range(20):
        standin.happens("running", "warning", text=f"thing {number}")
    with heard(web, EVENTS) as events:
        assert numbers(events, 22) == [str(number) for number in range(1, 23)]
        with heard(web, f"{EVENTS}?from=5") as late:
            assert numbers(late, 17) == [str(number) for number in range(6, 23)]


def test_watch_ends(web: httpx2.Client, standin: StandIn) -> None:
    """With the training; the page is told how it stands then."""
    with heard(web, EVENTS) as events:
        numbers(events, 2)
        standin.trainings[0] |= {"state": "COMPLETED", "verdict": VERDICT}
        standin.happens("running", "state", state="COMPLETED")
        kinds = [(kind, data) for kind, _, data in events]
    assert kinds[-1] == ("end", {"text": ""})
    standing = [data for kind, data in kinds if kind == "standing"][-1]
    assert (standing["state"], standing["does"], standing["ended"]) == ("COMPLETED", [], True)


def test_place_in_the_queue(web: httpx2.Client, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event tells it; it is told all the same."""
    monkeypatch.setattr(hub, "_SECONDS_BETWEEN_PLACES", 0.2)
    standin.trainings[0] |= {"state": "QUEUED", "queued_before": 3, "reasons": ["3 before"], "started": None}
    standin.happens("running", "state", state="QUEUED")
    with heard(web, EVENTS) as events:
        until(events, lambda kind, data: kind == "standing" and data["where"] == "3 before it")
        standin.trainings[0] |= {"queued_before": 1, "reasons": ["1 before"]}
        _, told = until(events, lambda kind, data: kind == "standing" and data["where"] == "1 before it")
    assert told["reasons"] == ["1 before"]


def test_server_away_and_back(web: httpx2.Client, standin: StandIn) -> None:
    """A page is told so, without an address, and goes on with the next event."""
    with heard(web, EVENTS) as events:
        numbers(events, 2)
        standin.stop()
        _, told = until(events, lambda kind, data: kind == "away")
        assert str(standin.port) not in told["text"]
        standin.start(standin.port)
        standin.happens("running", "warning", text=HOSTILE)
        kinds = []
        for kind, id, _ in events:
            kinds.append(kind)
            if id == "3":
                break
    assert "end" not in kinds


def test_unknown(web: httpx2.Client) -> None:
    """A refusal before there is an event is one."""
    answer = web.get("/studio/trainings/nope/events")
    assert answer.status_code == 404
    assert "No training" in answer.json()["error"]["message"]
    assert web.get("/studio/trainings/nope").status_code == 404


def test_list(web: httpx2.Client, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the list share a poll, and are told what has changed alone."""
    monkeypatch.setattr(hub, "_SECONDS_BETWEEN_LISTS", 0.1)
    with ExitStack() as stack:
        pages = [stack.enter_context(heard(web, "/studio/trainings")) for _ in range(5)]
        for events in pages:
            _, told = until(events, lambda kind, data: kind == "trainings")
            assert told["order"] == ["running", "done", "hostile"]
            assert len(told["rows"]) == 3
        standin.add("new")
        for events in pages:
            _, told = until(events, lambda kind, data: kind == "trainings")
            assert told["order"][0] == "new"
            assert [row["id"] for row in told["rows"]] == ["new"]
        standin.trainings[0]["state"] = "CANCELED"
        _, told = until(pages[0], lambda kind, data: kind == "trainings")
        assert "order" not in told
        assert told["rows"][0]["state"] == "CANCELED"
        before, began = standin.calls["ListTrainings"], time.monotonic()
        time.sleep(1)
        polls = (time.monotonic() - began) / 0.1
        assert standin.calls["ListTrainings"] - before <= 2 * polls


def test_points(web: httpx2.Client) -> None:
    """What a script draws, as of which event."""
    told = web.get("/studio/trainings/done").json()
    assert told["last"] == 3
    assert len(told["points"]["loss"]) == 2000
    assert told["scores"] == {"accuracy": [[9, 0.5]]}
    assert told["ended"] is True


def test_too_many(web: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one caller; the page of a training is there all the same."""
    monkeypatch.setattr(hub, "_MOST_VIEWED", 1)
    with heard(web, EVENTS) as events:
        numbers(events, 2)
        assert web.get("/studio/trainings/done/events").status_code == 429
        answer = web.get("/trainings/done")
        assert answer.status_code == 200
        assert "are looked at already" in answer.text
