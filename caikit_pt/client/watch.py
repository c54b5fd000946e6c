"""Watches a training, and comes again where the server goes away in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from caikit_pt.asking import LOST
from caikit_pt.client.connection import Connection
from caikit_pt.client.message import as_event
from caikit_pt.client.server_error import ServerError
from caikit_pt.training import Event

_SECONDS_TO_RECONNECT = 1.0


class Watch:
    """The events of one training behind number `from_event`. One that never began isn't begun again."""

    def __init__(self, connection: Connection, training_id: str, from_event: int) -> None:
        self._connection, self._training_id = connection, training_id
        self._first = self._last = from_event
        self._waits = False

    def events(self, on_lost: Callable[[ServerError], None] | None) -> Iterator[Event]:
        """As they come, until the training has ended. Raises ServerError."""
        while True:
            try:
                yield from self._until_lost()
                return
            except ServerError as error:
                if error.status not in LOST or self._last == self._first:
                    raise
                if on_lost and not self._waits:
                    on_lost(error)
                self._waits = True
                time.sleep(_SECONDS_TO_RECONNECT)

    def _until_lost(self) -> Iterator[Event]:
        from caikit_pt.runtime.tuning_messages import WatchTrainingRequest

        request = WatchTrainingRequest(training_id=self._training_id, from_event=self._last)
        rpc = self._connection.stubs.tuning.WatchTraining
        for message in self._connection.stream(rpc, request.to_proto()):
            self._last, self._waits = message.number, False
            yield as_event(message)
