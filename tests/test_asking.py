"""Questions that are under way together: how many, in what order their answers come, who is asked again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from caikit_pt import asking
from caikit_pt.asking import Asking
from caikit_pt.client import ServerError

Asked = tuple[str, "Future[dict[str, Any]]"]


class Server:
    """It answers when the test says so. `asked` are the questions so far, with their calls."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def ask(self, text: str) -> Future[dict[str, Any]]:
        call: Future[dict[str, Any]] = Future()
        self.asked.append((text, call))
        return call

    def answer(self, number: int) -> None:
        text, call = self.asked[number]
        call.set_result({"generated_text": text.upper()})

    def refuse(self, number: int, status: str) -> None:
        self.asked[number][1].set_exception(ServerError(status, "it is"))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(asking, "time", clock)
    return slept


def at_once(server: Server, reply: Callable[[str, int], str]) -> Callable[[str], Future[dict[str, Any]]]:
    """Replies by text and by how often it was asked: with a status, or with an answer where it is empty."""

    def ask(text: str) -> Future[dict[str, Any]]:
        call = server.ask(text)
        status = reply(text, [one for one, _ in server.asked].count(text))
        if status:
            server.refuse(-1, status)
        else:
            server.answer(-1)
        return call

    return ask


def told(found: Any) -> str:
    return found.status if isinstance(found, ServerError) else str(found["generated_text"])


def test_no_more_is_read_than_may_be_held_behind_a_slow_one(server: Server) -> None:
    read: list[str] = []
    seen: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(1000):
            read.append(f"t{number}")
            yield read[-1]

    def end_the_slow_one() -> None:
        seen.append(len(read))
        server.answer(0)

    def ask(text: str) -> Future[dict[str, Any]]:
        call = server.ask(text)
        if text != "t0":
            server.answer(len(server.asked) - 1)
        if len(server.asked) == 8:
            threading.Timer(0.1, end_the_slow_one).start()
        return call

    answers = Asking(ask, in_flight=2).answers(texts())
    assert [told(next(answers)) for _ in range(20)] == [f"T{number}" for number in range(20)]
    assert seen == [8]
    assert len(read) <= 28


def test_no_more_are_under_way_than_may_be(server: Server) -> None:
    most = 0

    def ask(text: str) -> Future[dict[str, Any]]:
        nonlocal most
        call = server.ask(text)
        open_calls = [number for number, (_, one) in enumerate(server.asked) if not one.done()]
        most = max(most, len(open_calls))
        if len(open_calls) == 3:
            for number in reversed(open_calls):
                server.answer(number)
        return call

    found = [told(one) for one in Asking(ask, in_flight=3).answers(f"t{number}" for number in range(9))]
    assert found == [f"T{number}" for number in range(9)]
    assert most == 3


def test_what_is_refused_has_its_place(server: Server) -> None:
    ask = at_once(server, lambda text, _: "INVALID_ARGUMENT" if text == "b" else "")
    assert [told(one) for one in Asking(ask, 2).answers("abc")] == ["A", "INVALID_ARGUMENT", "C"]


@pytest.mark.parametrize("status", ["NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"])
def test_what_is_no_fault_of_the_question_ends_it(server: Server, status: str) -> None:
    answers = Asking(at_once(server, lambda text, _: status if text == "c" else ""), 1).answers("abcd")
    assert [told(next(answers)), told(next(answers))] == ["A", "B"]
    with pytest.raises(ServerError) as error:
        next(answers)
    assert error.value.status == status
    assert [text for text, _ in server.asked] == ["a", "b", "c"]


def test_a_server_that_goes_away_is_asked_again(server: Server, no_pauses: list[float]) -> None:
    """Told once, and no answer is lost or there twice."""
    lost: list[Any] = []
    ask = at_once(server, lambda text, times: "UNAVAILABLE" if text in "cdef" and times < 4 else "")
    answers = Asking(ask, 2, lost.append).answers("abcdefg")
    assert [told(one) for one in answers] == list("ABCDEFG")
    assert [error.status for error in lost] == ["UNAVAILABLE"] * len(lost)
    assert 1 <= len(lost) <= 2
    assert len(no_pauses) >= 3


def test_a_server_that_never_was_there_or_never_comes_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = at_once(server, lambda text, _: "UNAVAILABLE" if text != "a" else "")
    with pytest.raises(ServerError):
        next(Asking(gone, 2).answers("bcd"))
    assert len(server.asked) == 2
    now = iter(range(0, 100_000, 400))
    # Not time's own: threads of other tests look at it.
    clock = SimpleNamespace(monotonic=lambda: float(next(now)), sleep=lambda seconds: None)
    monkeypatch.setattr(asking, "time", clock)
    answers = Asking(gone, 1).answers("abc")
    assert told(next(answers)) == "A"
    with pytest.raises(ServerError):
        next(answers)


def test_a_busy_server_is_asked_again_but_not_for_ever(server: Server) -> None:
    def reply(text: str, times: int) -> str:
        return "RESOURCE_EXHAUSTED" if text == "c" or (text == "b" and times < 5) else ""

    found = [told(one) for one in Asking(at_once(server, reply), 2).answers("abcd")]
    assert found == ["A", "B", "RESOURCE_EXHAUSTED", "D"]
    assert [text for text, _ in server.asked].count("c") == asking._MOST_REFUSALS


def test_a_server_that_says_when_to_come_again_is_asked_then(server: Server, no_pauses: list[float]) -> None:
    """A quota that is used up may take a minute: thirty tries of a second are no help."""
    waits = iter([7.5, None, 1e9])

    def ask(text: str) -> Future[dict[str, Any]]:
        call = server.ask(text)
        wait = next(waits, 0.0)
        if wait == 0.0:
            server.answer(-1)
        else:
            error = ServerError("RESOURCE_EXHAUSTED", "quota")
            error.retry_seconds = wait
            call.set_exception(error)
        return call

    assert list(Asking(ask, 1).answers("a")) == [{"generated_text": "A"}]
    assert no_pauses == [7.5, 1.0, 61.0]


def test_who_stops_asking_waits_for_nothing_more(server: Server) -> None:
    def ask(text: str) -> Future[dict[str, Any]]:
        call = server.ask(text)
        if text == "a":
            server.answer(0)
        return call

    answers = Asking(ask, 3).answers("abcdef")
    assert told(next(answers)) == "A"
    assert isinstance(answers, Generator)
    answers.close()
    assert [call.cancelled() for _, call in server.asked] == [False] + [True] * (len(server.asked) - 1)
    assert len(server.asked) >= 3
