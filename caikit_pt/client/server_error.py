"""What a server answers instead of what was asked for."""

from __future__ import annotations

from typing import Any

from caikit_pt.errors import CaikitPtError

# What a caller can do about it here.
_HINTS = {"UNAUTHENTICATED": " (TuningClient(token=...); caikit-pt --token-file FILE)"}


class ServerError(CaikitPtError):
    """What the server answered instead: `status` is the name of a gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def server_error(error: Any) -> ServerError:
    """An RpcError as one of this package."""
    status, text = error.code().name, error.details() or ""
    return ServerError(status, text + _HINTS.get(status, "") + _of_tls(text))


def _of_tls(text: str) -> str:
    """What is said of a connection that isn't what the other end takes it for."""
    if "handshake" not in text.lower():
        return ""
    return ". Is it a server with TLS, and its certificate one of ca (--ca)? Does it want one of yours?"
