"""A server process of one's own, as the demo and the tests start it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS_TO_START = 60.0
# Below what Linux has for clients (net.ipv4.ip_local_port_range).
_PORTS = 20_000, 32_000


@contextmanager
def server(models: Path, settings: Mapping[str, str] | None = None) -> Iterator[int]:
    """The real server process, publishing into `models`; yields its port when it answers.

    `settings` are environment variables that override runtime_config.yaml.
    """
    port = free_port()
    environment = environment_of(port, models, models.with_suffix(".state"), settings or {})
    log = models.with_suffix(".log")
    print(f"Starting the server on port {port}; its log: {log}", flush=True)
    with running(environment, port, log):
        yield port


def environment_of(port: int, models: Path, state: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Of a server on `port` that has these directories for itself; `settings` override the rest."""
    return {
        **os.environ,
        "CONFIG_FILES": str(ROOT / "runtime_config.yaml"),
        "RUNTIME_GRPC_PORT": str(port),
        "RUNTIME_METRICS_ENABLED": "false",
        "RUNTIME_LOCAL_MODELS_DIR": str(models),
        "STATE_DIR": str(state),
        # Nobody chooses between servers here.
        "DRAIN_SECONDS": "0",
        **settings,
    }


@contextmanager
def running(
    environment: Mapping[str, str],
    port: int,
    log: Path,
    directory: Path = ROOT,
    module: str = "caikit_pt.runtime",
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process in `directory`, with all of `environment`, from when it answers until it has ended."""
    process = started(environment, log, directory, module)
    try:
        wait_until_serving(process, port)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def started(
    environment: Mapping[str, str],
    log: Path,
    directory: Path = ROOT,
    module: str = "caikit_pt.runtime",
    mode: str = "w",
) -> subprocess.Popen[bytes]:
    """A server process; what it says is in `log`, behind what was there where `mode` is "a"."""
    with log.open(mode) as output:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=directory,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until_serving(
    process: subprocess.Popen[bytes], port: int, seconds: float = SECONDS_TO_START
) -> None:
    """Returns when the health service says SERVING. Raises SystemExit where it doesn't by then."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    deadline = time.monotonic() + seconds
    # A channel that nobody has answered waits for longer and longer before it tries again.
    own = [("grpc.use_local_subchannel_pool", 1)]
    while time.monotonic() < deadline and process.poll() is None:
        with grpc.insecure_channel(f"localhost:{port}", own) as channel, suppress(grpc.RpcError):
            if health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1:
                return
        time.sleep(0.2)
    raise SystemExit("The server didn't start; see its log.")


def free_port() -> int:
    """A port that nobody listens on. It is none that the kernel gives to clients: a server that is restarted
    finds it free again."""
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("localhost", port))
            return port


@contextmanager
def web_door(server: int, folder: Path) -> Iterator[str]:
    """OpenAI's API and the studio page for the server at this port, from when they answer until they have
    ended; yields their address. What they keep, and their log, are in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "caikit_pt.cli", "web", "--port", str(port)]
    environment = {**os.environ, "WEB_DIRECTORY": str(folder / "web"), "PYTHONPATH": str(ROOT)}
    with (folder / "web.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--server", f"localhost:{server}"], cwd=folder, env=environment, stderr=log
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The web door didn't start; its log: {folder / 'web.log'}")
            time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=5):
        return True
    return False
