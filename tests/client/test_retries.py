"""What a client asks again on its own, over real connections to a server that fails at first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from caikit_pt.client import ServerError, TuningClient
from caikit_pt.client.retries import _STREAMS
from caikit_pt.runtime.tuning_rpcs import service
from tests.conftest import T5
from tests.runtime.servers import QUICK, RECORDS

LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Failing(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers with empty messages, after it has failed so often."""

    def __init__(self) -> None:
        self.fails, self.code = 0, LOST[0]
        self.asked: list[bytes] = []
        self.first: Any = None

    def service(self, details: Any) -> Any:
        streams = details.method.rpartition("/")[2].startswith("ServerStreaming")
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return make(self._stream if streams else self._answer)

    def _answer(self, request: bytes, context: Any) -> bytes:
        self.asked.append(request)
        if self.first and len(self.asked) == 1:
            context.abort_with_status(self.first)
        if len(self.asked) <= self.fails:
            context.abort(self.code, "not now")
        return b""

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield self._answer(request, context)
        if self.fails:
            context.abort(self.code, "in the midst of it")


@pytest.fixture
def failing() -> Iterator[tuple[Failing, TuningClient]]:
    handler = Failing()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with TuningClient(f"127.0.0.1:{port}") as client:
        yield handler, client
    server.stop(None)


@pytest.mark.parametrize("code", LOST)
def test_what_is_safe_is_asked_again(failing: tuple[Failing, TuningClient], code: grpc.StatusCode) -> None:
    handler, client = failing
    handler.fails, handler.code = 2, code
    assert client.generate("first", "text") == ""
    assert len(handler.asked) == 3


def test_a_training_is_sent_again_with_its_id(failing: tuple[Failing, TuningClient]) -> None:
    handler, client = failing
    handler.fails = 1
    client.tune("first", base_model=T5, records=RECORDS, **QUICK)
    client.tune("first", base_model=T5, records=RECORDS, **QUICK)
    first, again, another = handler.asked
    assert first == again != another


def test_a_stream_is_not_begun_again_once_it_has_begun(failing: tuple[Failing, TuningClient]) -> None:
    handler, client = failing
    handler.fails = 1
    told: list[str] = []
    with pytest.raises(ServerError, match="in the midst of it"):
        told.extend(client.stream("first", "text"))
    assert len(handler.asked) == 2


def test_what_a_server_says_that_is_gone_then_is_told(failing: tuple[Failing, TuningClient]) -> None:
    handler, client = failing
    handler.fails = 9
    said = status_pb2.Status(code=14, message="The server stops")
    said.details.add().Pack(error_details_pb2.ErrorInfo(reason="SERVER_STOPPING"))
    handler.first = rpc_status.to_status(said)
    with pytest.raises(ServerError, match="The server stops") as error:
        list(client.stream("first", "text"))
    assert (error.value.reason, len(handler.asked)) == ("SERVER_STOPPING", 5)


def test_what_is_refused_is_not_asked_again(failing: tuple[Failing, TuningClient]) -> None:
    handler, client = failing
    handler.fails, handler.code = 9, grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ServerError, match="not now"):
        client.generate("first", "text")
    assert len(handler.asked) == 1


def test_streams_are_none_of_those_that_grpc_asks_again() -> None:
    """Its core doesn't tell at times that one of these has ended."""
    from caikit.runtime.service_factory import ServicePackageFactory as Factory

    inference = Factory.get_service_package(Factory.ServiceType.INFERENCE)
    for described in (service().descriptor, inference.descriptor):
        streams = {method.name for method in described.methods if method.server_streaming}
        ours = {name for place, name in _STREAMS if place == described.full_name}
        assert streams == ours | {name for name in streams if name.startswith("BidiStreaming")}
