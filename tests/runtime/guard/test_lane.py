"""Callers take turns for the threads of a lane."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from caikit_pt.runtime.guard import lane as lane_module
from caikit_pt.runtime.guard.lane import Lane


def event(token: str = "", peer: bytes = b"ipv4:10.0.0.1:42") -> Any:
    """What gRPC hands to a lane of an RPC."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return SimpleNamespace(invocation_metadata=metadata, call=SimpleNamespace(peer=lambda: peer))


def answered(*events: Any) -> list[int]:
    """In which order one thread answers them, which come while it is busy."""
    lane, busy, order = Lane("test", 1, 1000), threading.Event(), list[int]()
    lane.submit(lambda *_: busy.wait(10), event("busy"))

    def answer(number: int) -> Callable[..., None]:
        return lambda *_: order.append(number)

    futures = [lane.submit(answer(number), one) for number, one in enumerate(events)]
    assert len(lane._running) == len(events) + 1
    busy.set()
    for future in futures:
        future.result(10)
    lane.shutdown()
    assert not lane._waiting
    return order


def test_who_sends_many_requests_is_no_bar_to_who_sends_one() -> None:
    assert answered(*[event("many")] * 500, event("one"))[:3] == [0, 500, 1]


def test_hosts_take_turns_where_nobody_shows_a_token() -> None:
    many, one = event(), event(peer=b"ipv6:%5B::1%5D:7")
    assert answered(many, many, many, one, one) == [0, 3, 1, 4, 2]
    assert answered(event(), event(peer=b"ipv4:10.0.0.1:77"), event()) == [0, 1, 2]


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

    def caller(arguments: Any) -> str:
        seen.append(real(arguments))
        return seen[-1]

    monkeypatch.setattr(lane_module, "_caller", caller)

    def answer(_: Any, context: Any) -> bytes:
        return b""

    answer.experimental_thread_pool = lane = Lane("test", 2)  # type: ignore[attr-defined]
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
