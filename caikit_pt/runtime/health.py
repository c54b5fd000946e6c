"""What gRPC's health service says: whether the server is there, and whether it is ready for work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grpc_health.v1.health import OVERALL_HEALTH, HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

# Asked for by name. "" and the name of each service are READY's.
LIVE, READY = "live", "ready"
_SERVING, _NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Health(HealthServicer):
    """`live` for as long as the process answers; `ready` when it may be sent work."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=False)
        self._ready = False
        for name in (OVERALL_HEALTH, READY):
            self.set(name, _NOT_SERVING)
        self.set(LIVE, _SERVING)

    def name(self, services: Iterable[str]) -> None:
        """These are ready when the server is."""
        for service in services:
            self.set(service, _SERVING if self._ready else _NOT_SERVING)

    def ready(self) -> None:
        """From now on there may be work."""
        self._ready = True
        self._tell(_SERVING)

    def drain(self) -> None:
        """From now on, and for good, there should be none."""
        self._tell(_NOT_SERVING)
        with self._lock:
            # Whatever is loaded only now is too late.
            self._gracefully_shutting_down = True

    def close(self) -> None:
        """Whoever watches has seen it: the server waits for nobody."""
        with self._lock:
            watching = [tell for each in self._send_response_callbacks.values() for tell in each]
        for tell in watching:
            tell(None)

    def _tell(self, status: Any) -> None:
        with self._lock:
            for name in list(self._server_status):
                if name != LIVE:
                    self.set(name, status)


class HealthModule:
    """grpc_health.v1.health, as caikit asks it for its servicer."""

    def __init__(self, servicer: Health) -> None:
        self._servicer = servicer

    def HealthServicer(self, **_: Any) -> Health:
        """Ours: one that caikit makes is ready always."""
        return self._servicer
