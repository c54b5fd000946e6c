"""An RPC as its service sees it: gRPC's context, whose errors tell more, and of this machine less."""

from __future__ import annotations

import logging
import sys
from typing import Any, NoReturn

import grpc

from caikit_pt.errors import CaikitPtError, Unforeseen, without_folders
from caikit_pt.runtime.guard.status import status_of

_LOG = logging.getLogger(__name__)
_DEFECTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class GuardedContext:
    """A grpc.ServicerContext."""

    def __init__(self, context: Any, request_id: str) -> None:
        self._context, self.request_id = context, request_id
        self.aborted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the RPC. Where that is for an error of ours, its details are told, too; what nobody has
        foreseen is for the log alone. Raises Exception, as gRPC has it."""
        self.aborted = True
        error = _ours(sys.exception())
        if error is None and code in _DEFECTS:
            error = Unforeseen(self.request_id)
            _LOG.error("request %s failed: %s", self.request_id, details, exc_info=True)
        elif error is None:
            details = without_folders(details)
        if isinstance(error, Unforeseen):
            code, details = grpc.StatusCode.INTERNAL, str(error)
        self._context.abort_with_status(status_of(code, details, self.request_id, error))
        raise AssertionError("gRPC raises")

    def refuse(self, error: CaikitPtError) -> NoReturn:
        """Ends the RPC with an error of ours."""
        self.aborted = True
        code = grpc.StatusCode[error.status]
        self._context.abort_with_status(status_of(code, str(error), self.request_id, error))
        raise AssertionError("gRPC raises")


grpc.ServicerContext.register(GuardedContext)  # type: ignore[attr-defined]


def _ours(error: BaseException | None) -> CaikitPtError | None:
    """What stands behind an error that caikit has made of it."""
    while error is not None and not isinstance(error, CaikitPtError):
        error = error.__cause__
    return error
