"""What a server answers instead of what was asked for."""

from __future__ import annotations

from typing import Any

from caikit_pt.errors import CaikitPtError


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


def server_error(error: Any) -> ServerError:
    """An RpcError as one of this package."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    made = ServerError(error.code().name, error.details() or "")
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
