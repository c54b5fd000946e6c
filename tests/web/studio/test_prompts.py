"""A text on a prompt and its base, and a test with records: as pages, and as streams."""

from __future__ import annotations

import httpx2

from tests.web.studio.html import Page
from tests.web.studio.sse import events_of
from tests.web.studio.standin import HOSTILE, StandIn
from tests.web.studio.test_forms import BAD, GOOD


def test_try(web: httpx2.Client, standin: StandIn) -> None:
    """Both answers, whatever is in them, as text."""
    standin.answer = HOSTILE
    answer = web.post("/prompts/mood/try", data={"text": f"{HOSTILE}\r\nand more", "max_new_tokens": "5"})
    assert answer.status_code == 200
    page = Page(answer.text)
    page.check()
    assert HOSTILE not in answer.text
    assert f"base: {HOSTILE}" in page.text
    assert "eos token" in page.text


def test_try_refused(web: httpx2.Client) -> None:
    """No text, or a parameter that may not be."""
    for data, told in (({}, "text: "), ({"text": "a", "max_new_tokens": "x"}, "max_new_tokens: 'x'")):
        answer = web.post("/prompts/mood/try", data=data)
        assert answer.status_code == 400
        assert told in Page(answer.text).text
        streamed = web.post("/studio/prompts/mood/try", data=data)
        assert streamed.status_code == 400
        assert told in streamed.json()["error"]["message"]


def test_try_streams(web: httpx2.Client, standin: StandIn) -> None:
    """Pieces of both, each under its name."""
    standin.answer = "a longer answer"
    with web.stream("POST", "/studio/prompts/mood/try", data={"text": "Hello"}) as answer:
        events = list(events_of(answer.iter_lines()))
    for role, whole in (("tuned", "a longer answer"), ("untuned", "base: a longer answer")):
        pieces = [data["text"] for kind, _, data in events if kind == role]
        assert len(pieces) > 1
        assert "".join(pieces) == whole
        assert ("done", "", {"role": role}) in events


def test_test(web: httpx2.Client) -> None:
    """Tables with intervals, and samples of wrong answers: those of the records that were brought."""
    answer = web.post("/prompts/mood/test", data={"against": "other"}, files={"test_file": ("t.jsonl", GOOD)})
    assert answer.status_code == 200
    page = Page(answer.text)
    page.check()
    assert HOSTILE not in answer.text
    assert "accuracy 0.500 [0.100, 0.900] 0.000 [0.000, 0.600]" in page.text
    assert "Samples of wrong answers" in page.text


def test_test_streams(web: httpx2.Client) -> None:
    """With how far it is; a refusal has the lines."""
    path = "/studio/prompts/mood/test"
    with web.stream("POST", path, files={"test_file": ("t.jsonl", GOOD)}) as answer:
        events = list(events_of(answer.iter_lines()))
    assert [kind for kind, _, _ in events] == ["progress", "wrong", "report"]
    assert events[1][2]["answered"] == HOSTILE
    assert events[2][2]["tables"][0]["rows"][0][0] == "accuracy"
    with web.stream("POST", path, files={"test_file": ("t.csv", BAD)}) as answer:
        ((_, _, told),) = events_of(answer.iter_lines())
    assert len(told["error"]["lines"]) == 2
    page = Page(web.post("/prompts/mood/test", files={"test_file": ("t.csv", BAD)}).text)
    page.check()
    assert "t.csv, line 4" in page.text


def test_a_number_without_room_is_refused_and_nobody_waits(web: httpx2.Client) -> None:
    for path in ("/prompts/mood/try", "/studio/prompts/mood/try"):
        answer = web.post(path, data={"text": "Hello", "seed": "1" + 30 * "0"}, timeout=10)
        assert answer.status_code in (200, 400)
        assert "seed" in answer.text
