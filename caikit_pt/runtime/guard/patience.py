"""Cancels RPCs whose message doesn't come: each of them holds a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.5


class Patience:
    """For a message, `seconds` long at the most. A thread looks after all that are waited for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[int, tuple[float, Any]] = {}
        threading.Thread(target=self._look, name="patience", daemon=True).start()

    @contextmanager
    def with_(self, context: Any, seconds: float | None = None) -> Iterator[None]:
        """While the message of an RPC is on its way, for which there may be fewer seconds."""
        seconds = self._seconds if seconds is None else min(seconds, self._seconds)
        self._waiting[id(context)] = time.monotonic() + seconds, context
        try:
            yield
        finally:
            self._waiting.pop(id(context), None)

    def _look(self) -> None:
        while True:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            for deadline, context in list(self._waiting.values()):
                if now > deadline:
                    _cancel(context)


def _cancel(context: Any) -> None:
    try:
        # gRPC lets nobody but the thread that waits tell the client why.
        context.cancel()
    except Exception:
        # All the others are late, too, and there is one thread for them.
        _LOG.exception("an RPC whose message is late could not be cancelled")
