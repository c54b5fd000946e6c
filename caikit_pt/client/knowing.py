"""Which of several servers know a client's trainings: the first of its list, and who shares its jobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import grpc

from caikit_pt.client.servers import Server
from caikit_pt.replicas import Replicas
from caikit_pt.runtime.tuning_messages import DescribeRequest
from caikit_pt.runtime.tuning_rpcs import service

Metadata: TypeAlias = Sequence[tuple[str, str]]
_SECONDS_TO_TELL = 5.0


class Knowing:
    """Each is asked once whose jobs it has. Where the first is away, its jobs are taken for those that the
    others share, if they do: whoever is found first decides for as long as the client lives."""

    def __init__(self, replicas: Replicas[Server]) -> None:
        self._replicas, self._first = replicas, replicas.all[0]
        self._lock = threading.Lock()
        self._told: dict[Server, str] = {}
        # Of the servers that know this client's trainings; empty: the first alone.
        self._id: str | None = None

    def order(self, metadata: Metadata) -> Iterator[Server]:
        """Whom to ask about trainings, one after the other, of whoever `metadata` say; the first where nobody
        can tell."""
        knows = False
        for server in [self._first] if self._id == "" else self._replicas.order():
            if self._knows(server, metadata):
                knows = True
                yield server
        if not knows:
            yield self._first

    def _knows(self, server: Server, metadata: Metadata) -> bool:
        id = self._state_id(server, metadata)
        if id is None or not (id or server is self._first):
            return False
        with self._lock:
            if self._id is None:
                self._id = id
            return id == self._id

    def _state_id(self, server: Server, metadata: Metadata) -> str | None:
        """Empty where it shares its jobs with none; None where it can't tell now."""
        if server not in self._told:
            describe = service().client_stub_class(server.channel).Describe
            try:
                told = describe(DescribeRequest().to_proto(), metadata=metadata, timeout=_SECONDS_TO_TELL)
            except grpc.RpcError as error:
                # One of an earlier release, which a later one may follow, or one that is away.
                return "" if error.code() is grpc.StatusCode.UNIMPLEMENTED else None
            self._told[server] = told.state_id
        return self._told[server]
