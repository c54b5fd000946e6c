"""What a server answers instead of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caikit_pt.errors import CaikitPtError

# What a caller can do about it here.
_HINTS = {"UNAUTHENTICATED": " (TuningClient(token=...); caikit-pt --token-file FILE)"}

# gRPC's own words, of this release and of those before.
_NO_CONNECTION = ("connections to all backends failing", "failed to connect to all addresses")


class ServerError(CaikitPtError):
    """What the server answered instead: `status` is the name of a gRPC status.

    Of a server of caikit_pt also `reason` (docs/errors.md), `field` where one is refused, `retry_seconds`
    after which the same request may succeed, and `request_id`, which finds the request in the server's log.
    """

    field = ""
    request_id = ""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = ""


def server_error(error: Any, hints: Mapping[str, str] = _HINTS) -> ServerError:
    """An RpcError as one of this package; `hints` say by status what a caller can do about it."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status, text = error.code().name, error.details() or ""
    made = ServerError(status, text + hints.get(status, "") + _of_connection(text))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in _details(rpc_status, error):
        if detail.Unpack(info):
            made.reason, made.field = info.reason, info.metadata.get("field", "")
            made.request_id = info.metadata.get("request_id", "")
        elif detail.Unpack(retry):
            made.retry_seconds = retry.retry_delay.ToMilliseconds() / 1000
    return made


def _details(rpc_status: Any, error: Any) -> Any:
    """None where the server is another, or its status and details don't fit together."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return ()
    return status.details if status else ()


def _of_connection(text: str) -> str:
    """What is said of a connection that isn't what the other end takes it for, or that there isn't."""
    if "handshake" in text.lower():
        return ". Is it a server with TLS, and its certificate one of ca (--ca)? Does it want one of yours?"
    if text.lower().startswith(_NO_CONNECTION):
        return (
            ". Is a server there? Does it want TLS (--tls, --ca), or a certificate of yours (--cert, --key)?"
        )
    return ""
