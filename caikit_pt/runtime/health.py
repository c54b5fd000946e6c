"""What gRPC's health service says: whether the server is there, and whether it is ready for work."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

# Asked for by name. "" and the name of each service are READY's.
LIVE, READY = "live", "ready"
_SERVING, _NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Health(HealthServicer):
    """`live` for as long as the process answers; `ready` when it may be sent work.

    Nobody has to be known who asks: what he asks for is kept nowhere but in the thread that answers him.
    """

    def __init__(self) -> None:
        self._names = {OVERALL_HEALTH, READY}
        self._ready = self._ending = self._closed = False
        self._changed = threading.Condition()

    def name(self, services: Iterable[str]) -> None:
        """These are ready when the server is."""
        with self._changed:
            self._names.update(services)
            self._changed.notify_all()

    def ready(self) -> None:
        """From now on there may be work, unless the server ends already: what is loaded then is too late."""
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def drain(self) -> None:
        """From now on, and for good, there should be none."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever watches has seen it: the server waits for nobody."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def Check(self, request: Any, context: Any) -> Any:
        """NOT_FOUND for a name that there isn't."""
        with self._changed:
            status = self._status(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "This server's health has no such name")
        return HealthCheckResponse(status=status)

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        """What it is, and what becomes of it; SERVICE_UNKNOWN for a name that there isn't."""
        context.add_callback(self._look)
        told = None
        while (status := self._next(request.service, told, context)) is not None:
            yield HealthCheckResponse(status=status)
            told = status

    def _status(self, name: str) -> Any:
        """None of a name that there isn't."""
        if name == LIVE:
            return _SERVING
        if name not in self._names:
            return None
        return _SERVING if self._ready and not self._ending else _NOT_SERVING

    def _next(self, name: str, told: Any, context: Any) -> Any:
        """The first status other than `told`; None where nobody listens, or is told, any more."""
        with self._changed:
            while context.is_active():
                status = self._status(name)
                status = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
                if status != told:
                    return status
                if self._closed:
                    break
                self._changed.wait()
        return None

    def _look(self) -> None:
        """Called at the end of a watcher's RPC."""
        with self._changed:
            self._changed.notify_all()


class HealthModule:
    """grpc_health.v1.health, as caikit asks it for its servicer."""

    def __init__(self, servicer: Health) -> None:
        self._servicer = servicer

    def HealthServicer(self, **_: Any) -> Health:
        """Ours: one that caikit makes is ready always."""
        return self._servicer
