"""Requests and trainings as traces of OpenTelemetry, where the setting `tracing.endpoint` names a collector.

Spans are made when what they tell of is over, of the moments that a Generation or a job has noted: engine and
supervisor know nothing of them. Attributes are those of the GenAI semantic conventions; no text of a request
is among them. caikit's own `runtime.trace` is another thing: its spans are those of its servicers, it wants
the packages of another exporter, and gives a request's context to nobody but a module that takes one.
Without an endpoint nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import InvalidParameter, StateUnavailable
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import COMPLETED, ERRORED, TERMINAL, Event, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.statistics import end_of
from caikit_pt.serving.witness import Seen, witnessed
from caikit_pt.settings import as_set

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

COMPLETION, TUNING = "text_completion", "tune"
_PARENT = ("traceparent", "tracestate")
_MOST_CHARACTERS = 200  # of a name that a client has made up
_NANOSECONDS = 10**9
_SECONDS_BETWEEN_LOOKS = 1.0
_MOST_EVENTS = 10_000
_MOST_SUBMITTED = 10_000  # trainings whose submissions are remembered until they end


class Traces:
    """What is told to one exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "caikit_pt"})
        # Not the provider of the whole process, which may be another's.
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("caikit_pt")
        self._submitted: OrderedDict[str, Context] = OrderedDict()
        self._lock = threading.Lock()

    def flush(self) -> None:
        """What has ended is exported when it returns, or lost."""
        self._provider.force_flush()

    def close(self) -> None:
        """Nothing is told after it."""
        self._provider.shutdown()

    @contextmanager
    def request(self, metadata: Mapping[str, str], operation: str, model: str) -> Iterator[None]:
        """A span of what happens inside, with the parts of the answer that is asked for there; of many
        answers it tells the sums."""
        from opentelemetry.trace import SpanKind

        name = model[:_MOST_CHARACTERS]
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "caikit_pt",
            "gen_ai.request.model": name,
        }
        span = self._tracer.start_span(
            f"{operation} {name}", _parent_in(metadata), SpanKind.SERVER, attributes=attributes
        )
        with witnessed() as seen:
            try:
                yield
            except BaseException as error:
                _failed(span, type(error.__cause__ or error).__name__)
                raise
            finally:
                self._tell(span, seen)
                span.end()

    def accepted(self, id: str, metadata: Mapping[str, str]) -> None:
        """The training `id` is a part of the trace of whoever has submitted it."""
        with self._lock:
            self._submitted[id] = _parent_in(metadata)
            # What was submitted once more may have ended long ago, and isn't told of again.
            while len(self._submitted) > _MOST_SUBMITTED:
                self._submitted.popitem(last=False)

    def training(self, job: Job, events: list[Event]) -> None:
        """A span of a job that has ended, and one of each of its states and phases."""
        assert job.ended is not None
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": TUNING,
            "gen_ai.provider.name": "caikit_pt",
            "gen_ai.request.model": str(job.parameters.get("base_model", "")),
            "caikit_pt.training.id": job.id,
            "caikit_pt.training.model": job.model_name,
            "caikit_pt.training.state": job.state,
            "caikit_pt.training.updates": int(job.progress.get("step", 0)),
        }
        with self._lock:
            submitted = self._submitted.pop(job.id, None)
        span = self._tracer.start_span(
            f"{TUNING} {job.model_name}",
            submitted or _parent_in({}),
            start_time=_nanoseconds(job.submitted),
            attributes=attributes,
        )
        moments = [
            (event.time, str(event.data.get("state") or event.data.get("phase")).lower())
            for event in events
            if event.kind in (kinds.STATE, kinds.PHASE) and event.data.get("state") not in TERMINAL
        ]
        ends = [moment for moment, _ in moments[1:]] + [job.ended]
        for (begin, name), end in zip(moments, ends, strict=True):
            self._part(span, name, begin, end)
        if job.state == COMPLETED:
            self._part(span, "published", job.ended, job.ended)
        if job.state == ERRORED:
            _failed(span, job.state)
        span.end(_nanoseconds(job.ended))

    def _tell(self, span: Span, seen: Seen) -> None:
        """Tokens as attributes."""
        if seen.first is None:
            return
        span.set_attribute("caikit_pt.base_model", seen.first.request.base_model)
        span.set_attribute("gen_ai.usage.input_tokens", seen.input_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", seen.output_tokens)
        if seen.count > 1:
            span.set_attribute("caikit_pt.answers", seen.count)
        else:
            self._tell_parts(span, seen.first)

    def _tell_parts(self, span: Span, generation: Generation) -> None:
        """Its end as an attribute, and its wait, its reading and its answer as spans."""
        now = time.monotonic()
        end = generation.ended_at or now
        if generation.ended:
            span.set_attribute("gen_ai.response.finish_reasons", (end_of(generation),))
        if generation.first is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", generation.first - generation.arrived)
        since = time.time() - now
        moments = [
            ("queue", generation.arrived, generation.taken),
            ("prefill", generation.taken, generation.read),
            ("decode", generation.read, end),
        ]
        for name, begin, until in moments:
            if begin is not None:
                self._part(span, name, since + begin, since + min(until or end, end))

    def _part(self, span: Span, name: str, begin: float, end: float) -> None:
        from opentelemetry.trace import set_span_in_context

        part = self._tracer.start_span(name, set_span_in_context(span), start_time=_nanoseconds(begin))
        part.end(_nanoseconds(end))


def _parent_in(metadata: Mapping[str, str]) -> Context:
    """The context that a caller's `traceparent` names; without a parent where there is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: value for name in _PARENT if (value := metadata.get(name))}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _failed(span: Span, kind: str) -> None:
    """By the name of the error alone: its text may have some of a request's."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


# ---- of this process ----

_TRACES: Traces | None = None


def check(endpoint: str) -> None:
    """Raises InvalidParameter where there is an endpoint and not what it takes to tell it anything."""
    if not endpoint:
        return
    try:
        import caikit_pt.runtime.otlp  # noqa: F401
    except ImportError as error:
        allowed = "unset, unless `pip install 'caikit-pt[tracing]'` was done"
        raise InvalidParameter(as_set("tracing.endpoint"), endpoint, allowed) from error


def begin(endpoint: str, store: JobStore, is_to_tell: Callable[[], bool] = lambda: True) -> None:
    """From now on requests and, as long as it is on this server to tell of them, the trainings in `store` are
    traced to `endpoint`; empty: nothing is."""
    if not endpoint:
        return
    from caikit_pt.runtime.otlp import GrpcExporter

    use(Traces(GrpcExporter(endpoint)))
    # Daemon: what ends with the process is told by nobody.
    threading.Thread(
        target=_follow, args=(store, time.time(), is_to_tell), name="traces", daemon=True
    ).start()


def use(traces: Traces | None) -> None:
    """Who is told from now on."""
    global _TRACES
    _TRACES = traces


@contextmanager
def request_span(metadata: Mapping[str, str], model: str = "", operation: str = COMPLETION) -> Iterator[None]:
    """Around a call: its span, a child of the `traceparent` in its gRPC metadata; `model` as it was asked."""
    traces = _TRACES
    if traces is None:
        yield
        return
    with traces.request(metadata, operation, model):
        yield


def accepted(id: str, metadata: Mapping[str, str]) -> None:
    """The training `id` was submitted by a call with this metadata."""
    if _TRACES is not None:
        _TRACES.accepted(id, metadata)


def _follow(store: JobStore, since: float, is_to_tell: Callable[[], bool]) -> None:
    """Tells of every job that ends, until somebody else is told."""
    traces, seen = _TRACES, -1
    while traces is not None and traces is _TRACES:
        changes = store.changes
        if not is_to_tell():
            since = time.time()
        elif changes != seen:
            # What can't be read now is so at the next look.
            with suppress(StateUnavailable):
                since, seen = tell_ended(traces, store, since), changes
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def tell_ended(traces: Traces, store: JobStore, since: float) -> float:
    """Tells of the jobs that ended behind `since`; when the last of them did. Raises StateUnavailable."""
    for job in store.ended_since(since):
        events: Any = store.events(job, kinds=[kinds.STATE, kinds.PHASE], limit=_MOST_EVENTS)
        traces.training(job, list(events))
        since = max(since, job.ended or since)
    return since
