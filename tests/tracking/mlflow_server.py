"""MLflow's own HTTP server in one process, which starts in half the time of `mlflow server`:
`python -m tests.tracking.mlflow_server DATABASE ARTIFACTS PORT`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.local_server import ROOT, free_port

_SECONDS_TO_START = 180.0  # under load


@contextmanager
def mlflow_server(database: str, artifacts: Path, port: int = 0) -> Iterator[str]:
    """Its address, when it answers."""
    port = port or free_port()
    command = [sys.executable, "-m", __name__, database, str(artifacts), str(port)]
    with (artifacts / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("MLflow's server didn't start")


def _serve(database: str, artifacts: str, port: str) -> None:
    from mlflow.server import constants

    # As `mlflow server` tells the processes that it starts.
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server import app, handlers
    from werkzeug.serving import run_simple

    handlers.initialize_backend_stores(database, default_artifact_root="mlflow-artifacts:/")
    run_simple("127.0.0.1", int(port), app, threaded=True)


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    _serve(*sys.argv[1:])
