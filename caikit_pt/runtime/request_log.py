"""A line in the log for each request and each submission of a training: who, how much, how long, what end.

With `log.formatter: json` each field is a member of the line's object. No text of a request is in it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from caikit_pt.errors import CaikitPtError
from caikit_pt.serving.witness import Seen, witnessed

_LOG = logging.getLogger(__name__)
OK, CANCELLED, INTERNAL = "OK", "CANCELLED", "INTERNAL"
_MOST_CHARACTERS = 200  # of a name that a client has made up


@dataclass(slots=True, kw_only=True)
class RequestLog:
    """What a line says. Times are milliseconds, None where it never came to that; `status` is gRPC's, and
    `reason` with the `field` that is wrong those of docs/errors.md."""

    operation: str
    request_id: str
    model: str = ""
    base_model: str = ""
    training_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    queue_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float = 0.0
    status: str = OK
    reason: str = ""
    field: str = ""
    began: float = dataclasses.field(default_factory=time.monotonic)

    def take(self, seen: Seen) -> None:
        """What the call has had generated: tokens of all, and the waits of the first."""
        self.input_tokens, self.output_tokens = seen.input_tokens, seen.output_tokens
        if first := seen.first:
            self.base_model = first.request.base_model
            self.queue_ms = _milliseconds(first.arrived, first.taken)
            self.first_token_ms = _milliseconds(first.arrived, first.first)

    def fail(self, error: BaseException) -> None:
        """Such was its end."""
        self.status = status_of(error)
        ours = getattr(error, "cause", error)
        if isinstance(ours, CaikitPtError):
            self.reason = ours.reason
            self.field = getattr(ours, "field", "")

    def write(self) -> None:
        """Now, which is the end of its time."""
        if not _LOG.isEnabledFor(logging.INFO):
            return
        self.total_ms = round(1000 * (time.monotonic() - self.began), 1)
        self.model = _plain(self.model)
        members = {name: getattr(self, name) for name in _TOLD}
        told = " ".join(f"{name}={value}" for name, value in members.items() if value not in ("", None))
        _LOG.info({"message": told, **members})


_TOLD = tuple(one.name for one in fields(RequestLog) if one.name != "began")


def status_of(error: BaseException) -> str:
    """The name of the gRPC status that a caller sees of an error."""
    if isinstance(error, CaikitPtError):
        return error.status
    if isinstance(error, GeneratorExit):
        return CANCELLED
    code = getattr(error, "status_code", None)
    return str(getattr(code, "name", INTERNAL))


@contextmanager
def logged(request_id: str, operation: str) -> Iterator[RequestLog]:
    """Around a call: its line is written when it is over, however that is. Whoever knows sets `model`, and of
    a training that is submitted `training_id`."""
    line = RequestLog(operation=operation, request_id=request_id)
    with witnessed() as seen:
        try:
            yield line
        except BaseException as error:
            line.fail(error)
            raise
        finally:
            line.take(seen)
            line.write()


def _milliseconds(begin: float, end: float | None) -> float | None:
    return None if end is None else round(1000 * (end - begin), 1)


def _plain(name: str) -> str:
    """On one line, and of a length."""
    if name.isascii() and name.isprintable() and " " not in name:
        return name[:_MOST_CHARACTERS]
    return "".join(one if one.isprintable() and one != " " else "?" for one in name[:_MOST_CHARACTERS])
