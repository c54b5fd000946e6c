"""Traces: what a request and a training have spent their time on, and not a word of what was asked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime import tracing
from caikit_pt.runtime.job import COMPLETED, ERRORED, PHASE, RUNNING
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.otlp import GrpcExporter
from caikit_pt.runtime.tracing import Traces, request_span, tell_ended
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.worker import Worker
from caikit_pt.settings import typed
from caikit_pt.status import caikit_errors
from examples.local_server import ROOT, free_port
from tests.conftest import LLAMA
from tests.serving.test_engine import WORDS, request

from .servers import QUICK, RECORDS, Server, wait_for
from .test_job_store import job

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METADATA = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "r"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    tracing.use(traces)
    yield exporter
    tracing.use(None)
    traces.close()


def finished(spans: InMemorySpanExporter) -> dict[str, Any]:
    """The spans that have ended, by name."""
    traces = tracing._TRACES
    assert traces is not None
    traces.flush()
    return {span.name: span for span in spans.get_finished_spans()}


def test_a_request_is_a_span_with_its_parts(spans: InMemorySpanExporter, llama: BaseModel) -> None:
    worker = Worker(llama, Limits())
    one = request(llama, 1, max_new_tokens=7, min_new_tokens=7)
    with request_span(METADATA, "helpful"):
        worker.submit(one).result()
    found = finished(spans)
    assert set(found) == {"text_completion helpful", "queue", "prefill", "decode"}
    whole = found["text_completion helpful"]
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == CALLER
    told = dict(whole.attributes)
    assert 0 < told.pop("gen_ai.response.time_to_first_chunk") < 60
    assert told == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "caikit_pt",
        "gen_ai.request.model": "helpful",
        "caikit_pt.base_model": LLAMA,
        "gen_ai.usage.input_tokens": len(one.row.ids),
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": ("length",),
    }
    parts = [found[name] for name in ("queue", "prefill", "decode")]
    assert all(part.parent.span_id == whole.context.span_id for part in parts)
    for earlier, later in ((parts[0], parts[1]), (parts[1], parts[2])):
        # Nanoseconds of one float each: two roundings of the same moment.
        assert abs(earlier.end_time - later.start_time) < 1000
    assert whole.start_time - 10**6 <= parts[0].start_time
    assert parts[2].end_time <= whole.end_time + 10**6


def test_many_answers_are_one_span_with_their_sums(spans: InMemorySpanExporter, llama: BaseModel) -> None:
    """As those of an evaluation: three spans of each would be millions."""
    worker = Worker(llama, Limits())
    asked = [request(llama, seed, max_new_tokens=7, min_new_tokens=7) for seed in range(3)]
    with request_span(METADATA, "helpful"):
        for one in asked:
            worker.submit(one).result()
    (whole,) = finished(spans).values()
    told = dict(whole.attributes)
    assert told["gen_ai.usage.input_tokens"] == sum(len(one.row.ids) for one in asked)
    assert told["gen_ai.usage.output_tokens"] == 21
    assert told["caikit_pt.answers"] == 3


def test_so_many_submissions_are_remembered(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training that had ended when it was submitted once more, no end comes."""
    monkeypatch.setattr(tracing, "_MOST_SUBMITTED", 3)
    for number in range(10):
        tracing.accepted(str(number), METADATA)
    traces = tracing._TRACES
    assert traces is not None
    assert list(traces._submitted) == ["7", "8", "9"]


def test_no_text_of_a_request_is_told(spans: InMemorySpanExporter, llama: BaseModel) -> None:
    worker = Worker(llama, Limits())
    one = request(llama, 2)
    with request_span(METADATA, "m" * 5000):
        worker.submit(one).result()
    with pytest.raises(Exception, match="kettle"), request_span(METADATA, "m"), caikit_errors():
        raise InvalidParameter("text", "the kettle", "something else")
    traces = tracing._TRACES
    assert traces is not None
    traces.flush()
    every = [*spans.get_finished_spans()]
    told = " ".join(span.to_json() for span in every)
    assert not any(f'"{word}' in told or f" {word} " in told for word in WORDS if len(word) > 4)
    assert one.text.strip() not in told or not one.text.strip()
    assert max(len(span.name) for span in every) < 300
    failed = every[-1]
    assert dict(failed.attributes or {})["error.type"] == "InvalidParameter"
    assert (failed.status.status_code.name, failed.status.description) == ("ERROR", None)
    assert not failed.events


def test_a_training_is_a_span_of_its_states_and_phases(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    store, began = JobStore(tmp_path), time.time()
    for id in ("good", "bad", "earlier"):
        store.add(job(id, submitted=began))
    store.move("earlier", ERRORED)
    since = store.find("earlier").ended or 0.0  # type: ignore[union-attr]
    tracing.accepted("good", METADATA)
    store.move("good", RUNNING)
    store.add_event("good", PHASE, {"phase": "training"})
    store.move("good", COMPLETED)
    store.move("bad", ERRORED, ["a text of a record"])
    traces = tracing._TRACES
    assert traces is not None
    since = tell_ended(traces, store, since)
    assert tell_ended(traces, store, since) == since, "each once"
    traces.flush()
    every = spans.get_finished_spans()
    good, bad = (
        next(span for span in every if dict(span.attributes or {}).get("caikit_pt.training.id") == id)
        for id in ("good", "bad")
    )
    parts = [span.name for span in every if span.parent and span.parent.span_id == good.context.span_id]
    assert parts == ["queued", "running", "training", "published"]
    assert f"{good.context.trace_id:032x}" == TRACE
    assert bad.context.trace_id != good.context.trace_id
    assert bad.status.status_code.name == "ERROR"
    assert good.start_time == int(began * 10**9)
    assert "a text of a record" not in " ".join(span.to_json() for span in every)
    assert dict(good.attributes or {})["gen_ai.operation.name"] == "tune"


class Collector(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A collector that takes OTLP over gRPC, and keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        assert call.method == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

        def export(request: Any, context: grpc.ServicerContext) -> Any:
            self.requests.append(request)
            return ExportTraceServiceResponse()

        return grpc.unary_unary_rpc_method_handler(
            export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
        )


@contextmanager
def collecting() -> Iterator[tuple[Collector, int]]:
    """A collector that runs, and its port."""
    collector, port = Collector(), free_port()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((collector,))
    server.add_insecure_port(f"localhost:{port}")
    server.start()
    try:
        yield collector, port
    finally:
        server.stop(None)


def test_a_real_collector_gets_them(llama: BaseModel, tmp_path: Path) -> None:
    with collecting() as (collector, port):
        tracing.begin(f"http://localhost:{port}", JobStore(tmp_path))
        traces = tracing._TRACES
        assert traces is not None
        worker = Worker(llama, Limits())
        with request_span(METADATA, "helpful"):
            worker.submit(request(llama, 1, max_new_tokens=3, min_new_tokens=3)).result()
        traces.flush()
        tracing.use(None)
        traces.close()
    (resource,) = [one for request in collector.requests for one in request.resource_spans]
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "caikit_pt"
    sent = {span.name: span for span in resource.scope_spans[0].spans}
    whole = sent["text_completion helpful"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, CALLER)
    assert whole.kind == whole.SPAN_KIND_SERVER
    assert sent["decode"].kind == whole.SPAN_KIND_INTERNAL
    assert sent["decode"].parent_span_id == whole.span_id
    assert 0 < sent["queue"].start_time_unix_nano <= sent["decode"].end_time_unix_nano
    attributes = {one.key: one.value for one in whole.attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3
    reasons = attributes["gen_ai.response.finish_reasons"].array_value.values
    assert [one.string_value for one in reasons] == ["length"]


def told(collector: Any) -> list[Any]:
    """All spans, in the order of their ends."""
    return [span for one in collector.requests for span in one.resource_spans[0].scope_spans[0].spans]


def test_a_server_tells_of_its_trainings(tmp_path: Path) -> None:
    with collecting() as (collector, port):
        server = Server(tmp_path, TRACING_ENDPOINT=f"localhost:{port}")
        try:
            with server.start() as client:
                id = client.tune("traced", base_model=LLAMA, records=RECORDS, **QUICK)
                assert [event.state for event in client.watch(id)][-1] == COMPLETED
                wait_for(lambda: "published" in [span.name for span in told(collector)])
        finally:
            server.close()
    sent = told(collector)
    # The submission, and then the training.
    assert [span.name for span in sent[:3]] == ["tune traced", "queued", "running"]
    assert [span.name for span in sent[-2:]] == ["published", "tune traced"]
    attributes = {one.key: one.value for one in sent[-1].attributes}
    assert attributes["caikit_pt.training.id"].string_value == id
    assert attributes["caikit_pt.training.updates"].int_value > 0
    assert "kettle" not in str(collector.requests)


def test_a_collector_that_is_gone_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    traces = Traces(GrpcExporter(f"localhost:{free_port()}"))
    for _ in range(2):
        with traces.request({}, "text_completion", "m"):
            pass
        traces.flush()
    traces.close()
    assert [one.message for one in caplog.records if "spans are lost" in one.message] == [
        "1 spans are lost: tracing.endpoint answers UNAVAILABLE"
    ]


@pytest.mark.parametrize("parent", ["", "nonsense", f"00-{TRACE}-{CALLER}", "x" * 5000])
def test_a_parent_that_is_none_makes_a_trace_of_its_own(spans: InMemorySpanExporter, parent: str) -> None:
    with request_span({"traceparent": parent}, "m"):
        pass
    assert finished(spans)["text_completion m"].parent is None


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "from caikit_pt.runtime import tracing\n"
        "tracing.check('')\n"
        "tracing.begin('', None)\n"
        "with tracing.request_span({'traceparent': 'x'}, 'm'): pass\n"
        "tracing.accepted('id', {})\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("value", ["http://me:hidden@host:4317", "host", "host:4317/v1?token=hidden", 7])
def test_an_endpoint_that_is_none(value: object) -> None:
    with pytest.raises(InvalidParameter, match=r"tracing\.endpoint") as error:
        typed({"tracing": {"endpoint": value}})
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("value", ["host:4317", "http://10.0.0.1:4317", "https://otel.example.com:443"])
def test_an_endpoint(value: str) -> None:
    assert typed({"tracing": {"endpoint": value}}).tracing.endpoint == value
