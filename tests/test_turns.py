"""Who works through many records does so in turns."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator

import pytest

from caikit_pt import turns as module
from caikit_pt.call import Call, begin
from caikit_pt.errors import ClientLeft
from caikit_pt.principal import Principal
from caikit_pt.turns import Turns, in_turn


def called(name: str, listens: bool = True) -> contextvars.Context:
    """The context of a thread that answers `name`."""
    context = contextvars.copy_context()
    call = Call(
        "id", "/x", "host", lambda _: True, Principal(name, ()), lambda _: None, is_active=lambda: listens
    )
    context.run(begin, call)
    return context


def test_all_come_in_their_order() -> None:
    assert list(in_turn(range(1000))) == list(range(1000))
    assert list(in_turn([])) == []


def test_one_is_at_work_at_a_time_and_tenants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_A_TURN", 0.0)
    turns, at_work, order = Turns(), [0], list[str]()
    begun = threading.Barrier(7)

    def work(name: str) -> Iterator[int]:
        for number in range(20):
            at_work[0] += 1
            assert at_work[0] == 1
            time.sleep(0.001)
            order.append(name)
            at_work[0] -= 1
            yield number

    def run(name: str) -> None:
        begun.wait(10)
        assert list(in_turn(work(name), turns)) == list(range(20))

    names = ["many"] * 6 + ["one"]
    threads = [threading.Thread(target=called(name).run, args=(run, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(order) == 140
    last = max(place for place, name in enumerate(order) if name == "one")
    assert last < 60, "a turn of one for each turn of the six together"


def test_what_fails_ends_its_turn() -> None:
    turns = Turns()

    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as kept:
        list(in_turn(fails(), turns))
    assert kept is not None
    assert list(in_turn(range(3), turns)) == [0, 1, 2]


def test_who_is_half_through_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_A_TURN", 0.0)
    turns = Turns()
    half = in_turn(range(10), turns)
    assert next(half) == 0
    assert list(in_turn(range(3), turns)) == [0, 1, 2]
    assert list(half) == list(range(1, 10))


def test_a_turn_within_ones_own() -> None:
    turns = Turns()
    inner = (sum(in_turn(range(number), turns)) for number in range(4))
    assert list(in_turn(inner, turns)) == [0, 0, 1, 3]


def test_nobody_works_for_who_has_left() -> None:
    with pytest.raises(ClientLeft):
        called("gone", listens=False).run(list, in_turn(range(3)))
