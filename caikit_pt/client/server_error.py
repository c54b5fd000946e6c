"""What a server answers instead of what was asked for."""

from __future__ import annotations

from typing import Any

from caikit_pt.errors import CaikitPtError


class ServerError(CaikitPtError):
    """What the server answered instead: `status` is the name of a gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def server_error(error: Any) -> ServerError:
    """An RpcError as one of this package."""
    return ServerError(error.code().name, error.details() or "")
