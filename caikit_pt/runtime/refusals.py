"""How often RPCs were refused, by reason: a bounded set, and nothing of what a user has sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import grpc

from caikit_pt.errors import CaikitPtError


def _kinds(kind: type[CaikitPtError]) -> Iterator[type[CaikitPtError]]:
    """Those of errors.py."""
    for one in kind.__subclasses__():
        if one.__module__ == CaikitPtError.__module__:
            yield one
            yield from _kinds(one)


# Of what caikit or gRPC refuses it is the status.
REASONS = (
    *(kind.reason.lower() for kind in _kinds(CaikitPtError)),
    *(code.name.lower() for code in grpc.StatusCode),
)
_COUNTS = dict.fromkeys(REASONS, 0)
_LOCK = threading.Lock()


def refused(code: grpc.StatusCode, error: CaikitPtError | None) -> None:
    """An RPC ends with `code`; `error` is what stands behind it, where that is one of ours."""
    name = error.reason.lower() if error else ""
    with _LOCK:
        _COUNTS[name if name in _COUNTS else code.name.lower()] += 1


def counts() -> Mapping[str, int]:
    """Since the process began, by reason."""
    with _LOCK:
        return dict(_COUNTS)
