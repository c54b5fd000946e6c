"""An RPC as its service sees it: gRPC's context, whose errors tell more, and of this machine less."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
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
        self._cut_off: CaikitPtError | None = None
        self._listening: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def is_active(self) -> bool:
        """Whether anybody waits for more."""
        return self._cut_off is None and bool(self._context.is_active())

    def add_callback(self, act: Callable[[], None]) -> bool:
        """As gRPC's, and it is called when the RPC is cut off, too."""
        self._listening.append(act)
        if self._cut_off is not None:
            return False
        return bool(self._context.add_callback(act))

    def cut_off(self, error: CaikitPtError) -> None:
        """Called by another thread: whoever works for the RPC stops, and the client is told of `error`."""
        self._cut_off = error
        for act in list(self._listening):
            act()

    def check(self) -> None:
        """Raises what it was cut off with."""
        if self._cut_off is not None:
            raise self._cut_off

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the RPC. Where that is for an error of ours, its details are told, too; what nobody has
        foreseen is for the log alone. Raises Exception, as gRPC has it."""
        self.aborted = True
        error = self._cut_off or _ours(sys.exception())
        if self._cut_off is not None:
            self.refuse(self._cut_off)
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
