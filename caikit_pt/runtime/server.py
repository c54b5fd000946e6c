"""caikit's gRPC server behind a guard, with TuningService on its port, and an end that loses no training.

To be imported when the settings are final: caikit makes its threads as they say.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

import caikit
from caikit.core import MODEL_MANAGER
from caikit.runtime import grpc_server
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from caikit_pt import settings
from caikit_pt.runtime.certificates import Certificates
from caikit_pt.runtime.guard.doorkeeper import Doorkeeper
from caikit_pt.runtime.guard.guard import Guard
from caikit_pt.runtime.guard.lanes import lanes
from caikit_pt.runtime.listening import Listening, ListeningGrpc
from caikit_pt.runtime.trainer import PromptTuningTrainer
from caikit_pt.runtime.tuning_rpcs import service
from caikit_pt.runtime.tuning_service import TuningServicer

_LOG = logging.getLogger(__name__)


class Server(grpc_server.RuntimeGRPCServer):
    """The runtime, with a guard in front and one service more."""

    def __init__(self) -> None:
        """Raises CaikitPtError."""
        runtime, now = caikit.get_config().runtime, settings.current()
        listening = Listening(now, runtime.tls)
        certificates = Certificates(runtime.tls) if runtime.tls.server.key else None
        own = certificates.own if certificates and certificates.clients_need_one else None
        guard = Guard(
            lanes(now, runtime.server_thread_pool_size),
            _opened(),
            now.max_message_seconds,
            Doorkeeper(now, own),
        )
        # The one interceptor that caikit gives its server, what it makes the server and its port with, and
        # what it says which services reflection shows.
        grpc_server.PROMETHEUS_METRICS_INTERCEPTOR = guard
        grpc_server.grpc = ListeningGrpc(listening, certificates)
        grpc_server.reflection = Reflection(service().descriptor.full_name)
        super().__init__()
        _LOG.log(logging.WARNING if listening.doubtful else logging.INFO, listening.told)
        self.trainer: PromptTuningTrainer = MODEL_MANAGER.get_trainer("default")
        self.trainer.start()
        self.tuning = TuningServicer(self.trainer)
        service().registration_function(self.tuning, self.server)

    def interrupt(self, signal_: Any, frame: Any) -> None:
        """Trainings end while the last requests are answered."""
        threading.Thread(target=self._end_trainings, name="stopping").start()
        super().interrupt(signal_, frame)

    def _end_trainings(self) -> None:
        # A signal may come before there is anything to end.
        if hasattr(self, "tuning"):
            self.trainer.stop()
            self.tuning.stop()


def _opened() -> frozenset[str]:
    """The settings that open doors, of those that are true."""
    now, generation = settings.current(), caikit.get_config().runtime.service_generation
    opening = {
        "model_management_rpcs": now.model_management_rpcs,
        "reflection": now.reflection,
        "runtime.service_generation.enable_inference_jobs": generation.enable_inference_jobs,
    }
    return frozenset(name for name, is_open in opening.items() if is_open)


class Reflection:
    """grpc_reflection, with more services than those that it is told of."""

    SERVICE_NAME = reflection.SERVICE_NAME

    def __init__(self, *services: str) -> None:
        self._services = (*services, health.SERVICE_NAME)

    def enable_server_reflection(self, services: Iterable[str], server: Any) -> None:
        """As that of grpc_reflection."""
        reflection.enable_server_reflection({*services, *self._services}, server)
