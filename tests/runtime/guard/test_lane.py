"""Callers take turns for the threads of a lane."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from caikit_pt.errors import OverCapacity
from caikit_pt.runtime.guard import lane as lane_module
from caikit_pt.runtime.guard.lane import Lane, on_return, returned
from tests.runtime.servers import wait_for


def event(token: str = "", peer: bytes = b"ipv4:10.0.0.1:42") -> Any:
    """What gRPC hands to a lane of an RPC."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return SimpleNamespace(invocation_metadata=metadata, call=SimpleNamespace(peer=lambda: peer))


def known(metadata: Iterable[tuple[str, str]]) -> str:
    """Who has which token, but for tokens that nobody has."""
    return next((value for key, value in metadata if key == "authorization" and "random" not in value), "")


def answered(*events: Any) -> list[int]:
    """In which order one thread answers them, which come while it is busy."""
    lane, busy, order = Lane("test", 1, 1000), threading.Event(), list[int]()
    lane.known = known
    lane.submit(lambda *_: busy.wait(10), event("busy"))

    def answer(number: int) -> Callable[..., None]:
        return lambda *_: order.append(number)

    futures = [lane.submit(answer(number), one) for number, one in enumerate(events)]
    assert lane.under_way == len(events) + 1
    busy.set()
    for future in futures:
        future.result(10)
    lane.shutdown()
    assert not lane._waiting
    return order


def test_who_sends_many_requests_is_no_bar_to_who_sends_one() -> None:
    assert answered(*[event("many")] * 500, event("one"))[:3] == [0, 500, 1]


def test_hosts_take_turns_where_nobody_shows_a_token() -> None:
    many, one = event(), event(peer=b"ipv6:%5B2001:db8::1%5D:7")
    assert answered(many, many, many, one, one) == [0, 3, 1, 4, 2]
    assert answered(event(), event(peer=b"ipv4:10.0.0.1:77"), event()) == [0, 1, 2]


def test_a_token_that_nobody_has_makes_no_caller() -> None:
    """Another one for each RPC would come before everybody else's second."""
    liar = [event(f"random {number}") for number in range(3)]
    assert answered(*liar, event("one"), event("one")) == [0, 3, 1, 4, 2]


def test_hosts_of_one_network_are_one_caller() -> None:
    of_a_network = [event(peer=f"ipv6:%5B2001:db8::{number:x}%5D:7".encode()) for number in range(3)]
    neighbour = event(peer=b"ipv6:%5B2001:db8:0:1::1%5D:7")
    assert answered(*of_a_network, neighbour) == [0, 3, 1, 2]


def test_a_full_queue_has_room_for_who_has_fewer() -> None:
    """The last of whoever has most waiting is refused; of those who have as many, whoever comes."""
    lane, busy = Lane("test", 1, 4), threading.Event()
    lane.known = known
    done = Counter[str]()
    refused: list[tuple[str, Any]] = []

    class Behavior:
        """As the guard makes them."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> None:
            busy.wait(10)
            done[self.name] += 1

        def refusing(self, error: OverCapacity) -> Callable[[], None]:
            return lambda: refused.append((self.name, str(error)))

    def come(who: str, name: str) -> Any:
        return lane.submit(lambda _, behavior: behavior(), event(who), Behavior(name))

    def refusals(number: int) -> bool:
        return len(refused) == number

    first = come("many", "many 0")
    wait_for(first.running)
    futures = [come("many", f"many {number}") for number in range(1, 5)]
    assert not lane.full, "somebody may make room"
    for number, (who, name, gone) in enumerate(
        (
            ("many", "many 5", "many 5"),
            ("one", "one 0", "many 4"),
            ("one", "one 1", "many 3"),
            ("one", "one 2", "one 2"),
            ("two", "two 0", "many 2"),
        ),
        start=1,
    ):
        futures.append(come(who, name))
        wait_for(partial(refusals, number))
        assert refused[-1][0] == gone
        assert ("made room for somebody who has fewer" in refused[-1][1]) == (gone != name)
    busy.set()
    for future in (first, *futures):
        future.result(10)
    assert set(done) == {"many 0", "many 1", "one 0", "one 1", "two 0"}
    assert not lane._waiting
    lane.shutdown()


@pytest.mark.parametrize(("callers", "most"), [(1, 12), (2, 7), (3, 5), (5, 3)])
def test_nobody_has_all_threads(callers: int, most: int) -> None:
    """Whoever comes next finds one; and each gets what others have left, once they have."""
    lane, doors = Lane("test", 16, 1000), [threading.Event() for _ in range(callers)]
    lane.known = known
    running = Counter[int]()

    def answer(number: int) -> Callable[..., None]:
        def wait(*_: object) -> None:
            running[number] += 1
            doors[number].wait(10)
            running[number] -= 1

        return wait

    futures = [
        lane.submit(answer(number), event(f"caller {number}")) for _ in range(40) for number in range(callers)
    ]
    wait_for(lambda: len(running) == callers and sum(running.values()) >= callers * most - callers)
    assert max(running.values()) <= 12
    assert sum(running.values()) < 16
    lane.submit(lambda *_: None, event("next")).result(10)
    # All but the first are done: he has what one alone may have.
    for door in doors[1:]:
        door.set()
    wait_for(lambda: running[0] == 12 and sum(running.values()) == 12)
    doors[0].set()
    for future in futures:
        future.result(10)
    assert not lane.under_way
    lane.shutdown()


def test_what_is_no_rpc_is_refused_by_its_future() -> None:
    lane, busy = Lane("test", 1), threading.Event()
    running = lane.submit(lambda *_: busy.wait(10), event())
    assert lane.full
    assert isinstance(lane.submit(lambda *_: None, event()).exception(10), OverCapacity)
    busy.set()
    assert running.result(10)
    lane.shutdown()


def test_whoever_waits_for_the_return_is_told_then() -> None:
    lane, told = Lane("test", 1, 10), list[str]()

    def answer(*_: object) -> list[str]:
        on_return(lambda: told.append("returned"))
        return [*told]

    assert lane.submit(answer, event()).result(10) == []
    assert told == ["returned"]
    on_return(lambda: told.append("at once"))
    assert told == ["returned", "at once"]

    def say(*_: object) -> int:
        on_return(lambda: told.append("said"))
        returned()
        return told.count("said")

    # Before the client is told, and not once more.
    assert lane.submit(say, event()).result(10) == 1
    assert told.count("said") == 1
    lane.shutdown()


def test_what_says_nothing_of_its_caller_is_first_in_first_out() -> None:
    assert answered(object(), object(), object()) == [0, 1, 2]


def test_an_answer_that_fails_takes_no_turn_of_others() -> None:
    lane = Lane("test", 1, 10)

    def fail(*_: object) -> None:
        raise ValueError("no")

    assert isinstance(lane.submit(fail, event()).exception(10), ValueError)
    assert lane.submit(lambda *_: "yes", event()).result(10) == "yes"
    lane.shutdown()


def test_grpc_tells_a_lane_of_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lane looks at is nothing that gRPC promises."""
    seen: list[str] = []
    real = lane_module._caller

    def caller(arguments: Any, known: Any) -> str:
        seen.append(real(arguments, known))
        return seen[-1]

    monkeypatch.setattr(lane_module, "_caller", caller)

    def answer(_: Any, context: Any) -> bytes:
        return b""

    answer.experimental_thread_pool = lane = Lane("test", 2)  # type: ignore[attr-defined]
    lane.known = known
    handler: Any = grpc.stream_unary_rpc_method_handler(answer)
    server: Any = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel: Any = grpc.insecure_channel(f"127.0.0.1:{port}")
    with channel:
        rpc = channel.unary_unary("/a.B/C")
        rpc(b"")
        rpc(b"", metadata=[("authorization", "Bearer x")])
    server.stop(0).wait()
    lane.shutdown()
    assert seen == ["127.0.0.1", "Bearer x"]
