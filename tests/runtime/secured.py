"""Server processes with certificates and callers that say who they are."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from examples.local_server import ROOT, free_port, started
from tests.conftest import BASE_MODELS

SECONDS = 90.0


@dataclass(frozen=True)
class Place:
    """Where a server is, and what it logs."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()


def environment_of(directory: Path, port: int, **settings: Any) -> dict[str, str]:
    """Of a server in `directory`, with these settings alone, of caikit's sections, too."""
    others = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNTIME_", "CONFIG_", "CAIKIT_PT_"))
    }
    file = directory / "settings.yml"
    runtime = {"grpc": {"port": port}, "metrics": {"enabled": False}}
    told = {"base_models_dir": str(BASE_MODELS), **settings}
    runtime |= {name: value for name, value in told.pop("runtime", {}).items() if name not in runtime}
    file.write_text(yaml.safe_dump({**told, "runtime": runtime}))
    return {**others, "PYTHONPATH": str(ROOT), "CONFIG_FILES": str(file)}


@contextmanager
def secured(directory: Path, credentials: grpc.ChannelCredentials, **settings: Any) -> Iterator[Place]:
    """A server that answers health probes over a channel with these credentials."""
    port = free_port()
    environment = environment_of(directory, port, **settings)
    process = started(environment, directory / "log", directory)
    place = Place(directory, port, process, environment)
    try:
        deadline = time.monotonic() + SECONDS
        while not is_healthy(place.address, credentials):
            assert process.poll() is None, place.log
            assert time.monotonic() < deadline, place.log
        yield place
    finally:
        process.terminate()
        process.wait(60)


def is_healthy(address: str, credentials: grpc.ChannelCredentials) -> bool:
    with grpc.secure_channel(address, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            time.sleep(0.2)
            return False
    return bool(answer.status == 1)
