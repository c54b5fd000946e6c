"""The guard in front of services of its own, over real connections."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from caikit_pt import call as calls
from caikit_pt.errors import ClientLeft, InvalidParameter, TooManyRequests
from caikit_pt.runtime.guard.caller import client_of, host_of
from caikit_pt.runtime.guard.door import (
    ANSWERS,
    CONTROL,
    HEALTH,
    HEALTH_WATCHES,
    REFLECTION,
    STREAMS,
    TRAININGS,
    WATCHES,
)
from caikit_pt.runtime.guard.doorkeeper import Doorkeeper
from caikit_pt.runtime.guard.guard import Guard
from caikit_pt.runtime.guard.lane import Lane
from caikit_pt.runtime.health import Health
from caikit_pt.runtime.refusals import counts
from caikit_pt.settings import typed
from tests.runtime.servers import wait_for

NLP, MANAGEMENT = "caikit.runtime.Nlp.NlpService", "caikit.runtime.models.ModelManagement"
TUNING = "caikit_pt.TuningService"
PREDICT, STREAM = "TextGenerationTaskPredict", "ServerStreamingTextGenerationTaskPredict"
REQUEST, RESPONSE = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
SECONDS_FOR_A_MESSAGE = 1.0

Answer = Callable[[Any, Any], Any]


class Service:
    """What `answer` and `stream` say, behind a guard with few threads."""

    def __init__(self, channel: grpc.Channel, guard: Guard, lanes: dict[str, Lane], health: Health) -> None:
        self.channel, self.guard, self.lanes, self.health = channel, guard, lanes, health

    def predict(self, text: str = "", service: str = NLP, method: str = PREDICT, **options: Any) -> Any:
        return self.raw(REQUEST(service=text).SerializeToString(), service, method, **options)

    def raw(self, content: bytes, service: str = NLP, method: str = PREDICT, **options: Any) -> Any:
        rpc = self.channel.unary_unary(f"/{service}/{method}", None, RESPONSE.FromString)
        return rpc(content, timeout=10, **options)

    def streamed(self, text: str = "", **options: Any) -> Any:
        rpc = self.channel.unary_stream(f"/{NLP}/{STREAM}", REQUEST.SerializeToString, RESPONSE.FromString)
        return rpc(REQUEST(service=text), timeout=10, **options)

    def silent(self, method: str = PREDICT) -> Any:
        """An RPC whose message never comes."""
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(10)
            yield from ()

        return self.channel.stream_unary(f"/{NLP}/{method}", None, RESPONSE.FromString).future(nothing())


@contextmanager
def serving(
    answer: Answer,
    stream: Answer = lambda *_: iter(()),
    opened: frozenset[str] = frozenset(),
    waiting: int = 0,
    **settings: Any,
) -> Iterator[Service]:
    lanes = {name: Lane(name, 2, waiting) for name in (ANSWERS, STREAMS, WATCHES, TRAININGS)}
    lanes[CONTROL] = Lane(CONTROL, 2)
    lanes |= {name: Lane(name, 16, 100) for name in (HEALTH, HEALTH_WATCHES, REFLECTION)}
    guard = Guard(lanes, opened, SECONDS_FOR_A_MESSAGE, Doorkeeper(typed(settings)))
    options = [("grpc.max_receive_message_length", 64 * 2**20)]
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[guard], options=options)
    codec = {"request_deserializer": REQUEST.FromString, "response_serializer": RESPONSE.SerializeToString}
    unary: Any = grpc.unary_unary_rpc_method_handler(answer, **codec)
    streaming: Any = grpc.unary_stream_rpc_method_handler(stream, **codec)
    for service, methods in {
        NLP: {PREDICT: unary, STREAM: streaming, "NobodyKnows": unary},
        MANAGEMENT: {"DeployModel": unary},
        "some.Service": {"Do": unary},
        TUNING: {"ListTrainings": unary},
    }.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    health = Health()
    add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection([NLP], server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            yield Service(channel, guard, lanes, health)
    finally:
        server.stop(None)


def good(*_: Any) -> Any:
    return RESPONSE(status="SERVING")


def raising(error: BaseException) -> Answer:
    def answer(*_: Any) -> Any:
        raise error

    return answer


def refused(rpc: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Status, text and details by the names of their messages."""
    with pytest.raises(grpc.RpcError) as error:
        rpc()
    failed: Any = error.value
    status, details = rpc_status.from_call(failed), {}
    if status is not None:
        for detail in status.details:
            kind = detail.TypeName().rpartition(".")[2]
            details[kind] = getattr(error_details_pb2, kind)()
            detail.Unpack(details[kind])
    return failed.code(), failed.details() or "", details


def test_who_may_is_answered() -> None:
    with serving(good, lambda *_: iter([good()] * 3)) as service:
        assert service.predict().status == 1
        assert [one.status for one in service.streamed()] == [1, 1, 1]


def test_an_error_of_ours_is_told_to_programs_too() -> None:
    with serving(raising(InvalidParameter("top_k", -1, "0 or more"))) as service:
        code, text, details = refused(lambda: service.predict(metadata=[("x-request-id", "mine")]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "top_k: -1 is not allowed. Allowed: 0 or more"
    (violation,) = details["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("top_k", text)
    info = details["ErrorInfo"]
    assert (info.reason, info.domain) == ("INVALID_PARAMETER", "caikit_pt")
    assert dict(info.metadata) == {"request_id": "mine", "field": "top_k"}
    assert "RetryInfo" not in details


def test_what_may_succeed_later_says_when() -> None:
    for answer, ask in (
        (raising(TooManyRequests("full")), lambda service: service.predict()),
        (good, lambda service: list(service.streamed())),
    ):
        with serving(answer, raising(TooManyRequests("full"))) as service:
            code, text, details = refused(lambda service=service, ask=ask: ask(service))  # type: ignore[misc]
        assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000


@pytest.mark.parametrize("error", [RuntimeError("/secret/place"), SystemExit(3), KeyboardInterrupt()])
def test_what_nobody_has_foreseen_is_for_the_log(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(raising(error), raising(error)) as service:
        for ask in (service.predict, lambda **more: list(service.streamed(**more))):
            caplog.clear()
            with caplog.at_level(logging.ERROR):
                code, text, details = refused(lambda ask=ask: ask(metadata=[("x-request-id", "r-7")]))  # type: ignore[misc]
            assert code is grpc.StatusCode.INTERNAL
            assert text == "Something failed that nobody has foreseen. The server's log has it as r-7"
            assert details["ErrorInfo"].reason == "UNFORESEEN"
            assert "r-7" in caplog.text
            assert type(error).__name__ in caplog.text
        # It is still there.
        assert refused(service.predict)[0] is grpc.StatusCode.INTERNAL


def test_a_defect_that_a_service_has_named_itself() -> None:
    def answer(_: Any, context: Any) -> Any:
        try:
            raise OSError("/models/secret is gone")
        except OSError as error:
            context.abort(grpc.StatusCode.UNKNOWN, repr(error))

    with serving(answer) as service:
        code, text, _ = refused(service.predict)
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in text


def test_no_path_in_an_error_that_is_not_ours() -> None:
    def answer(_: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.NOT_FOUND, "no /data/models/x/config.yml")

    with serving(answer) as service:
        assert refused(service.predict)[:2] == (grpc.StatusCode.NOT_FOUND, "no config.yml")


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"\n\x02\xc3\x28", b"\n\xff\xff\xff\xff\x0f"])
def test_what_is_no_message(content: bytes) -> None:
    """Neither garbage, nor text that isn't UTF-8, nor a length beyond its end."""
    with serving(good) as service:
        code, text, details = refused(lambda: service.raw(content))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in text
    assert details["BadRequest"].field_violations[0].field == "request"


def test_a_message_beyond_what_its_rpc_needs() -> None:
    with serving(good) as service:
        channel = service.channel
        rpc = channel.unary_unary(f"/{NLP}/{PREDICT}", None, None)
        code, text, _ = refused(lambda: rpc(b"x" * (4 * 2**20 + 1)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "request: '4,194,305 bytes' is not allowed. Allowed: up to 4,194,304 bytes"


def test_an_rpc_without_a_message() -> None:
    with serving(good) as service:
        rpc = service.channel.stream_unary(f"/{NLP}/{PREDICT}", None, None)
        code, text, _ = refused(lambda: rpc(iter(())))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in text


def test_doors_that_are_closed() -> None:
    with serving(good) as service:
        code, text, details = refused(lambda: service.predict(service=MANAGEMENT, method="DeployModel"))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "model_management_rpcs" in text
        assert details["ErrorInfo"].reason == "CLOSED_DOOR"
        for where in ((NLP, "NobodyKnows"), ("some.Service", "Do"), (NLP, "Nothing")):
            code, text, details = refused(lambda where=where: service.predict("", *where))  # type: ignore[misc]
            assert (code, text) == (
                grpc.StatusCode.UNIMPLEMENTED,
                "This server has no RPC of this name",
            )
            assert details["ErrorInfo"].reason == "UNKNOWN_RPC"
    with serving(good, opened=frozenset({"model_management_rpcs"})) as service:
        # Opened, it wants a name that it doesn't find in this message.
        assert refused(lambda: service.predict(service=MANAGEMENT, method="DeployModel"))[0] is (
            grpc.StatusCode.INTERNAL
        )


@pytest.mark.parametrize("id", ["..", "/etc", "../x", "a/b", "x" * 5000, ".hidden", " "])
def test_a_model_id_that_is_none_reaches_no_service(id: str) -> None:
    seen = []
    with serving(lambda *asked: seen.append(asked) or good()) as service:  # type: ignore[func-returns-value]
        code, text, _ = refused(lambda: service.predict(metadata=[("mm-model-id", id)]))
    assert code is grpc.StatusCode.NOT_FOUND
    assert len(text) < 200
    assert not seen


def test_a_message_that_never_comes_holds_a_thread_for_so_long_only() -> None:
    with serving(good) as service:
        began = time.monotonic()
        late = [service.silent() for _ in range(2)]
        time.sleep(0.3)
        # Both threads are held; the next is told so at once.
        code, text, details = refused(service.predict)
        assert time.monotonic() - began < SECONDS_FOR_A_MESSAGE
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 RPCs like this one are under way" in text
        assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000
        assert {one.code() for one in late} == {grpc.StatusCode.CANCELLED}
        assert time.monotonic() - began < SECONDS_FOR_A_MESSAGE + 2
        wait_for(lambda: _answers(service), 5)


def test_streams_take_no_thread_from_other_requests() -> None:
    go_on = threading.Event()

    def stream(*_: Any) -> Iterator[Any]:
        yield good()
        go_on.wait(10)

    with serving(good, stream) as service:
        open_ones = [service.streamed() for _ in range(2)]
        assert [next(one).status for one in open_ones] == [1, 1]
        assert refused(lambda: list(service.streamed()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert service.predict().status == 1
        go_on.set()
        assert [list(one) for one in open_ones] == [[], []]
        wait_for(lambda: list(_tried(service.streamed)), 5)


@pytest.mark.parametrize("end", ["done", "cancelled", "deadline", "failed"])
def test_whoever_waits_for_its_end_is_told(end: str) -> None:
    ended, begun = threading.Event(), threading.Event()
    ids = []

    def answer(*_: Any) -> Any:
        call = calls.current()
        assert call is not None
        ids.append((call.id, call.method, call.client))
        call.on_end(ended.set)
        begun.set()
        if end in ("cancelled", "deadline"):
            ended.wait(10)
        if end == "failed":
            raise ValueError("no")
        return good()

    with serving(answer) as service:
        rpc = service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, RESPONSE.FromString)
        seconds = 0.5 if end == "deadline" else 10
        under_way: Any = rpc.future(b"", timeout=seconds, metadata=(("x-request-id", "one"),))
        assert begun.wait(5)
        if end == "cancelled":
            under_way.cancel()
        assert ended.wait(5)
    assert ids == [("one", f"/{NLP}/{PREDICT}", "127.0.0.1")]
    assert calls.current() is None


@pytest.mark.parametrize(("end", "status"), [("cancelled", "CANCELLED"), ("deadline", "DEADLINE_EXCEEDED")])
def test_who_has_left_was_not_refused(end: str, status: str, caplog: pytest.LogCaptureFixture) -> None:
    """Though caikit ends his request with a status of its own."""
    begun, gone = threading.Event(), threading.Event()

    def answer(_: Any, context: Any) -> Any:
        context.add_callback(gone.set)
        begun.set()
        gone.wait(10)
        context.abort(grpc.StatusCode.ABORTED, "Request aborted")

    before = counts()
    with serving(answer) as service, caplog.at_level(logging.INFO):
        rpc = service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, RESPONSE.FromString)
        under_way: Any = rpc.future(b"", timeout=1.0 if end == "deadline" else 10)
        assert begun.wait(5)
        if end == "cancelled":
            under_way.cancel()
        wait_for(lambda: "status=" in caplog.text, 5)
    assert f"status={status}" in caplog.text
    assert counts() == before


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.7:4242", "10.0.0.7"),
        ("ipv6:%5B::1%5D:4242", "::1"),
        ("unix:", "unix:"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::1%25eth0"),
    ],
)
def test_the_host_of_a_peer(peer: str, client: str) -> None:
    assert client_of(peer) == client


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4242", "10.0.0.7"),
        ("ipv6:%5B::1%5D:4242", "127.0.0.1"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4242", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:", "unix:"),
    ],
)
def test_whom_an_rpc_is_counted_for(peer: str, host: str) -> None:
    """Of an IPv6 address a customer has a network: each RPC could come from another one."""
    assert host_of(peer) == host


def asked_with(service: Service, token: str) -> Any:
    rpc: Any = service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, RESPONSE.FromString)
    return rpc.future(b"", timeout=10, metadata=(("authorization", f"Bearer {token}"),))


def test_a_full_lane_makes_room_for_who_has_fewer(tmp_path: Path) -> None:
    """And who made room is told as programs are, while all threads are busy."""
    tokens, go_on, begun = tmp_path / "tokens", threading.Event(), list[str]()
    tokens.write_text(
        "".join(f"{hashlib.sha256(name.encode()).hexdigest()}: {name}\n" for name in ("many", "one"))
    )

    def answer(*_: Any) -> Any:
        begun.append(calls.tenant())
        go_on.wait(10)
        return good()

    with serving(answer, waiting=2, access={"tokens_file": str(tokens)}) as service:
        many = [asked_with(service, "many") for _ in range(2)]
        wait_for(lambda: len(begun) == 2, 5)
        for _ in range(2):
            many.append(asked_with(service, "many"))
        # Gets the place of the last; whose are as many as hers is refused himself.
        one = asked_with(service, "one")
        wait_for(lambda: any(each.done() for each in many), 5)
        (late,) = (each for each in many if each.done())
        code, text, details = refused(late.result)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the last made room for somebody who has fewer" in text
        assert details["ErrorInfo"].reason == "OVER_CAPACITY"
        assert details["RetryInfo"].retry_delay.seconds == 1
        again = asked_with(service, "many")
        assert "as many as may be. Try again later" in refused(again.result)[1]
        go_on.set()
        assert one.result().status == 1
        assert [each.result().status for each in many if each is not late] == [1, 1, 1]
    assert sorted(begun) == ["many", "many", "many", "one"]


def test_a_client_that_leaves_has_a_request_under_way_until_its_work_is_over() -> None:
    """Whoever asks and leaves again and again would have a thread for each."""
    begun, go_on, gone = threading.Event(), threading.Event(), list[bool]()

    def answer(*_: Any) -> Any:
        begun.set()
        go_on.wait(10)
        try:
            calls.check_client()
        except ClientLeft:
            gone.append(True)
            raise
        return good()

    with serving(answer, waiting=9, quotas={"each": {"requests_under_way": 1}}) as service:
        rpc = service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, RESPONSE.FromString)
        left: Any = rpc.future(b"", timeout=10)
        assert begun.wait(5)
        left.cancel()
        for _ in range(5):
            assert "requests_under_way" in _refusal(service)
        go_on.set()
        wait_for(lambda: _answers(service), 5)
    assert gone == [True], "what works for nobody can know"


def _refusal(service: Service) -> str:
    """Of a call that must not be answered yet."""
    rpc: Any = service.channel.unary_unary(f"/{NLP}/{PREDICT}", None, RESPONSE.FromString)
    try:
        rpc(b"", timeout=1)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.details())
    return ""


def _answers(service: Service) -> bool:
    try:
        return bool(service.predict().status)
    except grpc.RpcError:
        return False


def _tried(ask: Callable[[], Any]) -> Iterator[Any]:
    try:
        yield from ask()
    except grpc.RpcError:
        return
