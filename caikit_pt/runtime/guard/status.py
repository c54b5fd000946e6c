"""Errors as google.rpc.Status: what a program can read of them, beside the text for a person.

ErrorInfo has a stable reason (docs/errors.md) and the id that finds the request in the log, BadRequest the
field, RetryInfo when to come again. https://google.aip.dev/193
"""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from caikit_pt.errors import CaikitPtError, InvalidParameter

DOMAIN = "caikit_pt"
# Of a client's trailing metadata, which gRPC lets be 8 KiB with all that is in it; the text comes twice.
_LONGEST_TEXT, _MOST_BYTES = 2000, 5000


def status_of(code: grpc.StatusCode, text: str, request_id: str, error: CaikitPtError | None) -> grpc.Status:
    """A status with details; `error` is what stands behind it, where that is one of ours."""
    text = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    status = status_pb2.Status(code=code.value[0], message=text)
    reason = error.reason if error else code.name
    known = {"request_id": request_id}
    if isinstance(error, InvalidParameter):
        known["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=text)
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error and error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        _add(status, retry)
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=known))
    return rpc_status.to_status(status)


def _add(status: Any, detail: Any) -> None:
    if status.ByteSize() + detail.ByteSize() < _MOST_BYTES:
        status.details.add().Pack(detail)
