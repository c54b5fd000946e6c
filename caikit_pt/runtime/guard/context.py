"""An RPC as its service sees it: gRPC's context, whose errors tell more, and of this machine less."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, NoReturn

import grpc

from caikit_pt.errors import CaikitPtError, Unforeseen, without_folders
from caikit_pt.paths import scarcity
from caikit_pt.runtime.guard.caller import host_of
from caikit_pt.runtime.guard.status import status_of
from caikit_pt.runtime.refusals import refused

_LOG = logging.getLogger(__name__)
_DEFECTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_CLOCKS_APART = 0.1  # seconds by which a client may see his deadline before we do, and cancel


class Aborted(Exception):
    """An RPC has been ended with `status_code`, for an error of ours where there is a `cause`."""

    def __init__(self, status_code: grpc.StatusCode, cause: CaikitPtError | None = None) -> None:
        super().__init__(status_code.name)
        self.status_code, self.cause = status_code, cause


class GuardedContext:
    """A grpc.ServicerContext."""

    def __init__(self, context: Any, request_id: str) -> None:
        self._context, self.request_id = context, request_id
        self._cut_off: CaikitPtError | None = None
        self._listening: list[Callable[[], None]] = []
        self._code, self._details = grpc.StatusCode.OK, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @cached_property
    def host(self) -> str:
        """Whom the RPC is counted for where nobody has to say who he is."""
        return host_of(self._context.peer())

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

    def set_code(self, code: grpc.StatusCode) -> None:
        """As gRPC's; what its service says with it is told at the end, by `settle`."""
        self._code = code

    def set_details(self, details: str) -> None:
        """As gRPC's."""
        self._details = details

    def settle(self) -> None:
        """The service has returned: ends the RPC where that was no success. Raises Aborted, and what it was
        cut off with."""
        self.check()
        if self._code is not grpc.StatusCode.OK:
            self.abort(self._code, self._details or self._code.value[1])

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the RPC. Where that is for an error of ours, its details are told, too; what nobody has
        foreseen is for the log alone. Raises Aborted."""
        if self._cut_off is not None:
            self.refuse(self._cut_off)
        if not self._context.is_active():
            self._leave()
        error = _ours(sys.exception())
        if error is None and (scarce := scarcity(sys.exception())):
            self.refuse(scarce)
        if error is None and code in _DEFECTS:
            error = Unforeseen(self.request_id)
            _LOG.error("request %s failed: %s", self.request_id, details, exc_info=True)
        elif error is None:
            details = without_folders(details)
        if isinstance(error, Unforeseen):
            code, details = grpc.StatusCode.INTERNAL, str(error)
        self._end(code, details, error)

    def refuse(self, error: CaikitPtError) -> NoReturn:
        """Ends the RPC with an error of ours. Raises Aborted."""
        self._end(grpc.StatusCode[error.status], str(error), error)

    def _leave(self) -> NoReturn:
        """Nobody waits any more, which is no refusal: the client has left, or its time is over."""
        left = self._context.time_remaining()
        is_late = left is not None and left <= _CLOCKS_APART
        code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
        with suppress(Exception):
            self._context.abort(code, "")
        raise Aborted(code)

    def _end(self, code: grpc.StatusCode, text: str, error: CaikitPtError | None) -> NoReturn:
        refused(code, error)
        with suppress(Exception):  # which is how gRPC leaves whoever aborts
            self._context.abort_with_status(status_of(code, text, self.request_id, error))
        raise Aborted(code, error)


grpc.ServicerContext.register(GuardedContext)  # type: ignore[attr-defined]


def _ours(error: BaseException | None) -> CaikitPtError | None:
    """What stands behind an error that caikit has made of it."""
    while error is not None and not isinstance(error, CaikitPtError):
        error = error.__cause__
    return error
