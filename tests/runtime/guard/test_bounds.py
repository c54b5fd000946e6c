"""What whoever comes may take of a server, known or not: over real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from caikit_pt.runtime import refusals
from caikit_pt.runtime.guard.door import (
    ANSWERS,
    CONTROL,
    HEALTH,
    HEALTH_WATCHES,
    REFLECTION,
    STREAMS,
    WATCHES,
)
from caikit_pt.runtime.guard.lanes import lanes, most_rpcs
from caikit_pt.runtime.guard.patience import Patience
from caikit_pt.settings import Settings
from tests.runtime.guard.test_guard import (
    MANAGEMENT,
    NLP,
    PREDICT,
    REQUEST,
    SECONDS_FOR_A_MESSAGE,
    TUNING,
    Service,
    good,
    refused,
    serving,
)
from tests.runtime.servers import wait_for

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
OPEN = frozenset({"reflection"})
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def check(service: Service, name: str = "live") -> int:
    stub = health_pb2_grpc.HealthStub(service.channel)
    return int(stub.Check(REQUEST(service=name), timeout=5).status)


def watch(service: Service, name: str) -> Any:
    return health_pb2_grpc.HealthStub(service.channel).Watch(REQUEST(service=name), timeout=20)


def converse(service: Service, asked: Iterator[Any]) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo(asked, timeout=20)


def listing(times: int, what: str = "") -> Iterator[Any]:
    """An answer has its question in it."""
    for _ in range(times):
        yield reflection_pb2.ServerReflectionRequest(list_services=what)


def never(first: int = 0) -> Iterator[Any]:
    yield from listing(first)
    threading.Event().wait(10)


def nobody_is_in(service: Service, *lanes: str) -> bool:
    return not any(service.lanes[name].under_way for name in lanes)


# ---- health ----


def test_a_name_that_is_watched_is_kept_nowhere() -> None:
    """Each was kept for ever, of up to 4 MiB, of whoever came."""
    with serving(good) as service:
        before = {key: value for key, value in vars(service.health).items() if key != "_changed"}
        for number in range(100):
            watched = watch(service, f"{number:900d}")
            assert next(watched).status == SERVICE_UNKNOWN
            watched.cancel()
        wait_for(lambda: nobody_is_in(service, HEALTH_WATCHES), 5)
        assert before == {key: value for key, value in vars(service.health).items() if key != "_changed"}
        for ask in (lambda: check(service, "x" * 1100), lambda: next(watch(service, "x" * 1100))):
            code, text, _ = refused(ask)
            assert (code, "up to 1,024 bytes" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_whoever_watches_hears_of_each_change() -> None:
    with serving(good) as service:
        watched, unknown = watch(service, "ready"), watch(service, "nobody's")
        assert [next(watched).status, next(unknown).status] == [NOT_SERVING, SERVICE_UNKNOWN]
        service.health.ready()
        assert next(watched).status == SERVING
        service.health.drain()
        assert next(watched).status == NOT_SERVING
        service.health.close()
        assert (list(watched), list(unknown)) == ([], [])
        # Whoever comes now is told, and not waited for.
        assert [one.status for one in watch(service, "live")] == [SERVING]


def test_what_is_loaded_when_the_server_ends_makes_it_ready_no_more() -> None:
    """It did, for the whole drain, when it came between two of its steps."""
    with serving(good) as service:
        service.health.drain()
        service.health.ready()
        service.health.name(["another"])
        assert [check(service, name) for name in ("ready", "another", "live")] == [
            NOT_SERVING,
            NOT_SERVING,
            SERVING,
        ]


def test_whoever_watches_health_shuts_nobody_out() -> None:
    """50 who needn't be known took all places of those who watch trainings and evaluate."""
    with serving(good) as service:
        watching = [watch(service, "live") for _ in range(20)]
        wait_for(lambda: sum(one.done() for one in watching) >= 12, 5)
        for one in watching:
            if one.done():
                code, text, _ = refused(lambda one=one: next(one))  # type: ignore[misc]
                assert (code, "of this client" in text) == (FULL, True)
            else:
                assert next(one).status == SERVING
        assert sum(one.done() for one in watching) == 12
        assert nobody_is_in(service, WATCHES, CONTROL, HEALTH)
        assert check(service) == SERVING
        for one in watching:
            one.cancel()
        wait_for(lambda: nobody_is_in(service, HEALTH_WATCHES), 5)
        assert next(watch(service, "live")).status == SERVING


def test_live_is_told_though_others_say_nothing() -> None:
    """They come from the same host, and hold as many threads as there are."""
    with serving(good) as service:
        rpc = service.channel.stream_unary("/grpc.health.v1.Health/Check", None, None)
        silent = [rpc.future(never(), timeout=10) for _ in range(40)]
        wait_for(lambda: sum(one.done() for one in silent) >= 28, 5)
        began = time.monotonic()
        assert check(service) == SERVING
        assert time.monotonic() - began < SECONDS_FOR_A_MESSAGE + 1
        assert {one.code() for one in silent} == {grpc.StatusCode.CANCELLED}


def test_health_is_told_though_every_other_thread_is_held() -> None:
    held = threading.Event()

    def stream(*_: Any) -> Iterator[Any]:
        held.wait(20)
        yield good()

    with serving(lambda *_: held.wait(20) and good(), stream, OPEN) as service:
        ask = (
            [service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, None)] * 2
            + [service.channel.unary_unary(f"/{TUNING}/ListTrainings", None, None)] * 2
        )  # fmt: skip
        answers = [rpc.future(b"", timeout=30) for rpc in ask]
        streams = [service.streamed() for _ in range(2)]
        silent = [converse(service, never(1)) for _ in range(4)]
        wait_for(lambda: all(service.lanes[name].full for name in (ANSWERS, CONTROL, STREAMS)), 5)
        assert check(service) == SERVING
        # Whoever is refused doesn't wait for a place among those who hold them all.
        for method, where in ((PREDICT, NLP), ("ListTrainings", TUNING), ("DeployModel", MANAGEMENT)):
            code, _, details = refused(lambda m=method, w=where: service.predict("", w, m))  # type: ignore[misc]
            reason = "CLOSED_DOOR" if where == MANAGEMENT else "OVER_CAPACITY"
            assert details["ErrorInfo"].reason == reason
            assert code in (FULL, grpc.StatusCode.UNIMPLEMENTED)
        held.set()
        assert all(one.result() is not None for one in answers)
        assert all(next(one).status == SERVING for one in streams)
        for one in silent:
            one.cancel()


# ---- reflection ----


def test_a_conversation_in_which_nothing_is_said_ends() -> None:
    with serving(good, opened=OPEN) as service:
        began = time.monotonic()
        silent = [converse(service, never(1)) for _ in range(4)]
        assert all(next(one).list_services_response.service for one in silent)
        # Nobody has all the places, and none of anything else.
        code, text, _ = refused(lambda: next(converse(service, listing(1))))
        assert (code, "4 RPCs like this one of this client" in text) == (FULL, True)
        assert nobody_is_in(service, CONTROL, HEALTH)
        for one in silent:
            assert refused(lambda one=one: next(one))[0] is grpc.StatusCode.CANCELLED  # type: ignore[misc]
        assert SECONDS_FOR_A_MESSAGE <= time.monotonic() - began < SECONDS_FOR_A_MESSAGE + 3
        wait_for(lambda: nobody_is_in(service, REFLECTION), 5)
        assert len(list(converse(service, listing(3)))) == 3


def test_who_asks_and_does_not_read_is_no_better() -> None:
    with serving(good, opened=OPEN) as service:
        asked = converse(service, listing(1000, "x" * 10_000))
        assert next(asked).list_services_response.service
        # The rest is more than a connection takes on unread.
        wait_for(lambda: nobody_is_in(service, REFLECTION), SECONDS_FOR_A_MESSAGE + 5)
        assert refused(lambda: list(asked))[0] is grpc.StatusCode.CANCELLED


def test_a_conversation_has_an_end() -> None:
    with serving(good, opened=OPEN) as service:
        talking = converse(service, listing(1001))
        assert sum(1 for _ in zip(range(1000), talking, strict=False)) == 1000
        code, text, _ = refused(lambda: next(talking))
        assert (code, "up to 1,000" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        large = reflection_pb2.ServerReflectionRequest(file_by_filename="x" * 70_000)
        code, text, _ = refused(lambda: next(converse(service, iter([large]))))
        assert (code, "up to 65,536 bytes" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_an_end_waits_for_no_conversation_in_which_nothing_is_said() -> None:
    with serving(good, opened=OPEN) as service:
        silent = converse(service, never(1))
        assert next(silent).list_services_response.service
        wait_for(lambda: not service.guard.busy, SECONDS_FOR_A_MESSAGE / 2)
        began = time.monotonic()
        service.guard.close()
        assert refused(lambda: next(silent))[0] is grpc.StatusCode.CANCELLED
        assert time.monotonic() - began < SECONDS_FOR_A_MESSAGE
        assert refused(lambda: next(converse(service, listing(1))))[0] is grpc.StatusCode.UNAVAILABLE


# ---- refusals ----


def test_refusals_are_counted_and_nothing_is_kept_of_them() -> None:
    with serving(good) as service:
        known, before = dict(service.guard._known), refusals.counts()

        def ask(number: int) -> str:
            return str(refused(lambda: service.predict("", NLP, f"No{number}"))[2]["ErrorInfo"].reason)

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(ask, range(200))) == {"UNKNOWN_RPC"}
        assert service.guard._known == known
        assert refusals.counts()["unknown_rpc"] == before["unknown_rpc"] + 200
        assert service.guard._refusals._work_queue.empty()
        assert not service.guard._refusals._threads


def test_a_name_that_health_does_not_know_is_refused_with_details() -> None:
    with serving(good) as service:
        before = refusals.counts()
        code, text, details = refused(lambda: check(service, "nobody's"))
        assert (code, text) == (grpc.StatusCode.NOT_FOUND, "This server's health has no such name")
        assert details["ErrorInfo"].reason == "NOT_FOUND"
        assert refusals.counts()["not_found"] == before["not_found"] + 1


@pytest.mark.parametrize("text", ["it is /srv/secret/gone", ""])
def test_a_service_that_sets_a_code_and_returns(text: str) -> None:
    def answer(_: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details(text)
        return good()

    with serving(answer, lambda *asked: iter([answer(*asked)])) as service:
        for ask in (service.predict, lambda: list(service.streamed())):
            code, told, details = refused(ask)
            assert (code, told) == (grpc.StatusCode.OUT_OF_RANGE, "it is gone" if text else "out of range")
            assert details["ErrorInfo"].reason == "OUT_OF_RANGE"


def test_more_rpcs_than_all_lanes_hold_are_too_many() -> None:
    made = lanes(Settings(), 8)
    held = sum(lane.most for lane in made.values())
    assert held < most_rpcs(made.values()) < held + 100


# ---- what is waited for ----


def test_who_waits_for_a_thread_is_under_way() -> None:
    """His thread hasn't begun: an end took that for nothing to do."""
    held = threading.Event()
    with serving(good) as service:
        lane = service.lanes[CONTROL]
        lane.most += 10
        threads = [lane.submit(held.wait, 10) for _ in range(2)]
        rpc = service.channel.unary_unary(f"/{TUNING}/ListTrainings", None, None)
        waiting: Any = rpc.future(b"", timeout=10)
        wait_for(lambda: lane._waiting, 5)
        assert not service.guard._under_way
        wait_for(lambda: service.guard.busy, 1)
        held.set()
        assert waiting.result() is not None
        assert all(thread.result() for thread in threads)
        wait_for(lambda: not service.guard.busy, 5)
        # Whoever asks for health isn't.
        watched = watch(service, "live")
        assert next(watched).status == SERVING
        assert not service.guard.busy
        watched.cancel()


def test_one_that_can_not_be_cancelled_keeps_nobody_else_waiting(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = threading.Event()

    class Late:
        def __init__(self, number: int) -> None:
            self._number = number

        def cancel(self) -> None:
            if self._number == 0:
                raise RuntimeError("gone already")
            cancelled.set()

    patience = Patience(0.1)
    with patience.with_(Late(0)), patience.with_(Late(1)):
        assert cancelled.wait(5)
        cancelled.clear()
        assert cancelled.wait(5)
    assert "could not be cancelled" in caplog.text
