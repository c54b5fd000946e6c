"""How often requests were refused, by reason: a bounded set, and nothing of what a user has sent."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping

from caikit_pt.errors import CaikitPtError

OTHER = "other"


def reason_of(error: type[CaikitPtError]) -> str:
    """The name of its class in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()


def _errors(kind: type[CaikitPtError]) -> Iterator[type[CaikitPtError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _errors(one)


# The errors of errors.py, and what is refused before a request is looked at.
REASONS = (
    *map(reason_of, _errors(CaikitPtError)),
    *("unauthenticated", "permission_denied", "quota", "over_capacity", "unknown_model", OTHER),
)
_COUNTS = dict.fromkeys(REASONS, 0)
_LOCK = threading.Lock()


def refused(reason: str | CaikitPtError) -> None:
    """A request is refused for one of REASONS, or by an error; what is neither counts as OTHER."""
    name = reason_of(type(reason)) if isinstance(reason, CaikitPtError) else reason
    with _LOCK:
        _COUNTS[name if name in _COUNTS else OTHER] += 1


def counts() -> Mapping[str, int]:
    """Since the process began, by reason."""
    with _LOCK:
        return dict(_COUNTS)
