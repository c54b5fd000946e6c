"""What an RPC has of the quotas until it is over."""

from __future__ import annotations

import threading
from collections.abc import Callable

_RPC, _WORK = "rpc", "work"


class Lease:
    """Given back when the RPC has ended and its work has returned: a client that leaves frees no thread, and
    an answer that is made may be on its way for long. Each may be told more than once, by any thread."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._open = {_RPC, _WORK}
        self._lock = threading.Lock()

    def rpc_ended(self) -> None:
        """Nobody waits for an answer any more."""
        self._end(_RPC)

    def work_returned(self) -> None:
        """Nothing is done for it any more."""
        self._end(_WORK)

    def _end(self, what: str) -> None:
        with self._lock:
            last = self._open == {what}
            self._open.discard(what)
        if last:
            self._give_back()
