"""MLflow's own stores: its SQLite database and its HTTP server in front of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caikit_pt.tracking.mlflow import MLflow
from caikit_pt.tracking.point import Point
from caikit_pt.tracking.track import FAILED, FINISHED, Refused, Training
from examples.local_server import free_port

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
TRAINING = Training(
    id="a-1",
    name="mood",
    parameters={
        "num_epochs": 3,
        "output_model_types": ("DECODER",),
        "verbalizer": "{{input}}",
        "origins": {"num_epochs": "request", "verbalizer": "default"},
    },
    started=1000.5,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def address(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server over `database`."""
    directory, port = tmp_path_factory.mktemp("artifacts"), free_port()
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    options = ["--backend-store-uri", database, "--artifacts-destination", str(directory), "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--workers", "1", "--gunicorn-opts", "-t 60"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("MLflow's server didn't start")


@pytest.fixture(params=["server", "database"])
def uri(request: pytest.FixtureRequest, address: str, database: str) -> str:
    return address if request.param == "server" else database


@pytest.fixture
def client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def losses(first: int, last: int, time: float) -> list[Point]:
    return [Point("train/loss", 1 / step, step, time) for step in range(first, last + 1)]


def test_a_training_is_a_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    experiment = f"whole {uri[:5]}"
    (tmp_path / "config.yml").write_text("base_model_name: b\n")
    track = MLflow(uri, experiment).open(TRAINING)
    track.log([*losses(1, 1500, 1001.0), Point("eval/accuracy", 0.5, 700, 1001.0)])
    track.end(FINISHED, "The course of the loss: settled.", 1002.25)
    track.keep(tmp_path, f"mood-{uri[:5]}")
    (run,) = runs(client, experiment)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mood")
    assert (run.info.start_time, run.info.end_time) == (1000500, 1002250)
    assert run.data.params == {
        "num_epochs": "3",
        "output_model_types": "DECODER",
        "verbalizer": "{{input}}",
    }
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("origin.")}
    assert tags == {"origin.num_epochs": "request"}
    assert run.data.tags["mlflow.note.content"] == "The course of the loss: settled."
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value, one.timestamp) for one in curve] == [
        (step, 1 / step, 1001000) for step in range(1, 1501)
    ]
    assert run.info.run_id in track.address
    assert track.address.startswith(uri)


def test_a_prompt_is_a_version_that_can_be_had_back(
    uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    name, experiment = f"back-{uri[:5]}", f"back {uri[:5]}"
    prompt = tmp_path / "prompt"
    prompt.mkdir()
    (prompt / "config.yml").write_text("base_model_name: b\n")
    for id in ("b-1", "b-2"):
        track = MLflow(uri, experiment).open(replace(TRAINING, id=id))
        track.keep(prompt, name)
        track.keep(prompt, name)
    versions = client.search_model_versions(f"name='{name}'")
    assert sorted(int(one.version) for one in versions) == [1, 2]
    assert {one.run_id for one in versions} == {run.info.run_id for run in runs(client, experiment)}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.artifacts.download_artifacts(f"models:/{name}/2", dst_path=str(tmp_path / "back"), tracking_uri=uri)
    assert (tmp_path / "back" / "config.yml").read_text() == "base_model_name: b\n"


def test_a_training_that_goes_on_does_so_in_its_run(uri: str, client: MlflowClient) -> None:
    """What is told again, or trained again, is there once."""
    experiment = f"goes on {uri[:5]}"
    tracker = MLflow(uri, experiment)
    tracker.open(TRAINING).log(losses(1, 30, 1001.0))
    again = tracker.open(TRAINING)
    again.log([*losses(1, 30, 1001.0), *losses(21, 40, 1002.0)])
    again.log(losses(35, 50, 1003.0))
    again.end(FAILED, "Out of memory", 1004.0)
    (run,) = runs(client, experiment)
    assert run.info.status == "FAILED"
    assert run.data.tags["caikit_pt.reason"] == "Out of memory"
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [one.step for one in curve] == list(range(1, 51))


def test_a_request_whose_answer_was_lost_is_sent_again(uri: str, client: MlflowClient) -> None:
    experiment = f"lost {uri[:5]}"
    track = MLflow(uri, experiment).open(TRAINING)
    untold = track._told
    for _ in range(2):
        track._told = untold.__class__({})
        track.log(losses(1, 10, 1001.0))
    (run,) = runs(client, experiment)
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 10


def test_what_would_never_be_taken_is_refused(uri: str, client: MlflowClient) -> None:
    experiment = f"deleted {uri[:5]}"
    track = MLflow(uri, experiment).open(TRAINING)
    client.delete_run(runs(client, experiment)[0].info.run_id)
    with pytest.raises(Refused, match="must be in the 'active' state"):
        track.log(losses(1, 1, 1001.0))


def test_a_registry_that_is_not_there_leaves_the_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"{address}/nowhere")
    (tmp_path / "config.yml").touch()
    track = MLflow(address, "no registry").open(TRAINING)
    track.end(FINISHED, "", 1002.0)
    with pytest.raises(Refused):
        track.keep(tmp_path, "mood")


def test_a_server_that_is_not_there_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match="Connection refused"):
        MLflow(f"http://127.0.0.1:{free_port()}", "nowhere").open(TRAINING)
