"""caikit's gRPC server behind a guard, with TuningService on its port, and an end that loses no training.

To be imported when the settings are final: caikit makes its threads as they say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import caikit
from caikit.core import MODEL_MANAGER
from caikit.runtime import grpc_server
from caikit.runtime.model_management.model_manager import ModelManager
from grpc_health.v1 import health as health_service
from grpc_reflection.v1alpha import reflection

from caikit_pt import settings
from caikit_pt.runtime.certificates import Certificates
from caikit_pt.runtime.drain import Drain
from caikit_pt.runtime.guard.doorkeeper import Doorkeeper
from caikit_pt.runtime.guard.guard import Guard
from caikit_pt.runtime.guard.lanes import lanes, most_rpcs
from caikit_pt.runtime.health import Health, HealthModule
from caikit_pt.runtime.listening import Listening, ListeningGrpc
from caikit_pt.runtime.preload import Preload
from caikit_pt.runtime.published import PublishedPrompts
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
        there = lanes(now, runtime.server_thread_pool_size)
        self.guard = Guard(
            there,
            _opened(),
            now.max_message_seconds,
            Doorkeeper(now, own),
            _is_published,
        )
        self.health = Health()
        # The one interceptor that caikit gives its server, what it makes the server and its port with, and
        # what it says which services are healthy and shown.
        grpc_server.PROMETHEUS_METRICS_INTERCEPTOR = self.guard
        grpc_server.grpc = ListeningGrpc(listening, certificates, most_rpcs(there.values()))
        grpc_server.health = HealthModule(self.health)
        grpc_server.reflection = Reflection(self.health, service().descriptor.full_name)
        super().__init__()
        _LOG.log(logging.WARNING if listening.doubtful else logging.INFO, listening.told)
        self.trainer: PromptTuningTrainer = MODEL_MANAGER.get_trainer("default")
        self.trainer.start()
        self.tuning = TuningServicer(self.trainer)
        service().registration_function(self.tuning, self.server)

        self._preload = Preload(now, self.health.ready)

    def start(self, blocking: bool = True) -> None:
        """Answers from now on, and loads what is to be loaded."""
        self._preload.start()
        super().start(blocking)

    def drain(self) -> None:
        """Ends well, and returns when it has ended."""
        grace = self.config.runtime.grpc.server_shutdown_grace_period_seconds
        ending = Drain(self.server, self.guard, self.health, self._end_trainings)
        ending.run(settings.current().drain_seconds, float(grace))

    def _intercept_interrupt_signal(self) -> None:
        """Whoever starts the server hears signals (signals.py)."""

    def _end_trainings(self) -> None:
        """While the last requests are answered. Whoever watches them is sent elsewhere before they have
        kept their snapshots, which may take seconds."""
        self.tuning.stop()
        self.trainer.stop()


def _is_published(model_id: str) -> bool:
    prompts = ModelManager.get_instance()
    return not isinstance(prompts, PublishedPrompts) or prompts.is_published(model_id)


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
    """grpc_reflection, with more services than those that it is told of; `health` is told of all."""

    SERVICE_NAME = reflection.SERVICE_NAME

    def __init__(self, health: Health, *services: str) -> None:
        self._health, self._services = health, (*services, health_service.SERVICE_NAME)

    def enable_server_reflection(self, services: Iterable[str], server: Any) -> None:
        """As that of grpc_reflection."""
        known = {*services, *self._services}
        self._health.name(known)
        reflection.enable_server_reflection(known, server)
