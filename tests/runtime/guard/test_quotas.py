"""Quotas by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from caikit_pt.errors import OverCapacity, QuotaExceeded
from caikit_pt.runtime.guard import quotas as module
from caikit_pt.runtime.guard.door import ANSWERS, CONTROL, GENERATE, STREAMS, WATCH, WATCHES, Door
from caikit_pt.runtime.guard.quotas import Quotas
from caikit_pt.settings import typed

ANSWER, STREAM, STATUS = Door(GENERATE, ANSWERS), Door(GENERATE, STREAMS), Door(WATCH, CONTROL)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, **settings: Any) -> Quotas:
    return Quotas(typed(settings), clock)


def begun(quotas: Quotas, tenant: str, door: Door = ANSWER) -> Callable[[], None]:
    end = quotas.begin(tenant, door)
    assert end is not None
    return end


def refused(quotas: Quotas, tenant: str, door: Door = ANSWER) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as error:
        quotas.begin(tenant, door)
    return error.value


def test_without_quotas_nothing_is_refused() -> None:
    quotas = made(Clock())
    for _ in range(10_000):
        quotas.begin("ada", ANSWER)
    quotas.spend("ada", 10**9)
    assert quotas.begin("ada", ANSWER) is None, "nothing counts it"


def test_requests_a_second() -> None:
    clock = Clock()
    quotas = made(clock, quotas={"each": {"requests_per_second": 2}})
    for _ in range(2):
        quotas.begin("ada", ANSWER)
    error = refused(quotas, "ada")
    assert str(error) == (
        "quotas.each.requests_per_second: all requests of this second are used, and 2 is allowed. "
        "Try again in 0.5 seconds"
    )
    assert error.retry_seconds == pytest.approx(0.5)
    quotas.begin("bob", ANSWER)
    clock.now += error.retry_seconds or 0
    quotas.begin("ada", ANSWER)
    clock.now += 100
    for _ in range(2):
        quotas.begin("ada", ANSWER)
    refused(quotas, "ada")


def test_less_than_one_request_a_second() -> None:
    clock = Clock()
    quotas = made(clock, quotas={"each": {"requests_per_second": 0.1}})
    quotas.begin("ada", ANSWER)
    assert refused(quotas, "ada").retry_seconds == pytest.approx(10)


def test_tokens_a_minute_are_counted_afterwards_and_may_be_owed() -> None:
    clock = Clock()
    quotas = made(clock, quotas={"each": {"tokens_per_minute": 600}})
    quotas.begin("ada", ANSWER)
    quotas.spend("ada", 1200)
    error = refused(quotas, "ada")
    assert "quotas.each.tokens_per_minute" in str(error)
    assert error.retry_seconds == pytest.approx(60.1)
    quotas.begin("ada", STATUS)
    clock.now += error.retry_seconds or 0
    quotas.begin("ada", ANSWER)


def test_an_answer_is_asked_for_with_tokens_left_or_not_at_all() -> None:
    """One request may be many answers: an evaluation's first doesn't pay for its last."""
    clock = Clock()
    quotas = made(clock, quotas={"each": {"tokens_per_minute": 600}})
    quotas.begin("ada", ANSWER)
    quotas.check_tokens("ada")
    quotas.spend("ada", 600)
    with pytest.raises(QuotaExceeded, match=r"quotas\.each\.tokens_per_minute"):
        quotas.check_tokens("ada")
    quotas.check_tokens("bob")
    clock.now += 1
    quotas.check_tokens("ada")


def test_requests_under_way() -> None:
    quotas = made(Clock(), quotas={"each": {"requests_under_way": 1}})
    end = begun(quotas, "ada", ANSWER)
    assert "1 requests are under way" in str(refused(quotas, "ada"))
    quotas.begin("bob", ANSWER)
    end()
    # Whoever says it twice says nothing new.
    end()
    quotas.begin("ada", ANSWER)
    refused(quotas, "ada")


def test_what_all_use_together() -> None:
    quotas = made(Clock(), quotas={"each": {"requests_per_second": 5}, "all": {"requests_under_way": 2}})
    ends = [begun(quotas, name, ANSWER) for name in ("ada", "bob")]
    assert "quotas.all.requests_under_way" in str(refused(quotas, "cyd"))
    ends[0]()
    quotas.begin("cyd", ANSWER)


def test_streams_of_one_client() -> None:
    quotas = made(Clock(), max_streams_per_client=2)
    ends = [begun(quotas, "ada", STREAM) for _ in range(2)]
    with pytest.raises(OverCapacity, match="max_streams_per_client"):
        quotas.begin("ada", STREAM)
    quotas.begin("ada", ANSWER)
    quotas.begin("bob", STREAM)
    ends[0]()
    quotas.begin("ada", STREAM)


def test_watches_of_one_client() -> None:
    quotas = made(Clock(), max_watches_per_client=2, max_watches=9)
    watch = Door(WATCH, WATCHES)
    ends = [begun(quotas, "ada", watch) for _ in range(2)]
    with pytest.raises(OverCapacity, match="2 watches of this client are open, as many as max_watches_per"):
        quotas.begin("ada", watch)
    quotas.begin("ada", STREAM)
    quotas.begin("bob", watch)
    ends[0]()
    quotas.begin("ada", watch)


def test_what_was_used_at_once_is_waited_for_and_of_all_for_a_minute() -> None:
    """Thirty long answers at once were worth twenty minutes of a quota, and one was waited for."""
    clock = Clock()
    quotas = made(clock, quotas={"each": {"tokens_per_minute": 600}, "all": {"tokens_per_minute": 6000}})
    quotas.spend("ada", 30_000)
    assert refused(quotas, "ada").retry_seconds == pytest.approx(29_401 / 10)
    assert refused(quotas, "bob").retry_seconds == pytest.approx(60.01)
    clock.now += 61
    quotas.begin("bob", ANSWER)
    refused(quotas, "ada")
    clock.now += 2940
    quotas.begin("ada", ANSWER)


def test_no_more_tenants_are_remembered_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    quotas = made(Clock(), quotas={"each": {"requests_under_way": 1}})
    busy = begun(quotas, "busy", ANSWER)
    for number in range(10):
        begun(quotas, f"idle {number}", ANSWER)()
    assert len(quotas._accounts) == 3
    # Of whom something is under way isn't forgotten.
    refused(quotas, "busy")
    busy()
    others = [begun(quotas, f"busy {number}", ANSWER) for number in range(5)]
    for end in others:
        end()


def test_who_owes_something_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers by the thousand pay nobody's debt."""
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    quotas = made(Clock(), quotas={"each": {"tokens_per_minute": 600}})
    quotas.spend("ada", 1200)
    quotas.spend("bob", 900)
    for number in range(10):
        begun(quotas, f"stranger {number}", ANSWER)()
    refused(quotas, "ada")
    refused(quotas, "bob")
    quotas.spend("cyd", 1100)
    quotas.spend("dan", 1000)
    assert set(quotas._accounts) == {"ada", "cyd", "dan"}, "of those who owe, who owes least goes first"
