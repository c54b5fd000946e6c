"""Streams whose client may say more, and hasn't: when the server ends, it waits for none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from caikit_pt.errors import ServerStopping


class Silence:
    """Of one server."""

    def __init__(self, stopping: ServerStopping) -> None:
        """With what is told whoever would be waited for after the end."""
        self._stopping = stopping
        self._silent: set[Any] = set()
        self._is_over = False

    @contextmanager
    def of(self, context: Any) -> Iterator[None]:
        """While the next message of a stream is waited for. Raises ServerStopping."""
        self._silent.add(context)
        try:
            # Whoever is added before it is over is ended by `end`.
            if self._is_over:
                raise self._stopping
            yield
        finally:
            self._silent.discard(context)

    def end(self) -> None:
        """Nobody is waited for any more: gRPC tells them CANCELLED."""
        self._is_over = True
        for context in list(self._silent):
            context.cancel()
