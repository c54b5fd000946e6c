"""Spans as OpenTelemetry's collectors take them: OTLP over gRPC.

opentelemetry-exporter-otlp-proto-grpc does the same with four packages more; the messages are in
opentelemetry-proto, and gRPC is here already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_LOG = logging.getLogger(__name__)
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_SECONDS_TO_EXPORT = 5.0
_SECONDS_BETWEEN_WARNINGS = 60.0


class GrpcExporter(SpanExporter):
    """To the collector at `endpoint`: HOST:PORT or http://HOST:PORT, with https:// over TLS."""

    def __init__(self, endpoint: str) -> None:
        address = endpoint.partition("://")[2] or endpoint
        if endpoint.startswith("https://"):
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials())
        else:
            self._channel = grpc.insecure_channel(address)
        self._export = self._channel.unary_unary(
            _EXPORT, ExportTraceServiceRequest.SerializeToString, ExportTraceServiceResponse.FromString
        )
        self._warned = float("-inf")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """What doesn't arrive is lost, and the log says so once a minute."""
        try:
            self._export(message_of(spans), timeout=_SECONDS_TO_EXPORT)
        except grpc.RpcError as error:
            if time.monotonic() - self._warned > _SECONDS_BETWEEN_WARNINGS:
                self._warned = time.monotonic()
                # What is raised is a call, too, which knows its status.
                known: Any = error
                _LOG.warning("%d spans are lost: tracing.endpoint answers %s", len(spans), known.code().name)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is exported after it."""
        self._channel.close()


def message_of(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """All of one resource, and of one scope."""
    scope = ScopeSpans(spans=[_span(span) for span in spans])
    if spans and spans[0].instrumentation_scope:
        scope.scope.name = spans[0].instrumentation_scope.name
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])])
    if spans:
        request.resource_spans[0].resource.attributes.extend(_attributes(spans[0].resource.attributes))
    return request


def _span(span: ReadableSpan) -> Span:
    context = span.context
    assert context is not None
    message = Span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        name=span.name,
        # INTERNAL is 0 in the SDK, and 1 on the wire.
        kind=Span.SpanKind.Name(span.kind.value + 1),  # type: ignore[arg-type]
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_attributes(span.attributes or {}),
        # UNSET, OK and ERROR are the same numbers in both.
        status=Status(code=Status.StatusCode.Name(span.status.status_code.value)),  # type: ignore[arg-type]
    )
    if span.parent is not None:
        message.parent_span_id = span.parent.span_id.to_bytes(8, "big")
    return message


def _attributes(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=map(_value, value)))
