"""MLflow's own stores: its SQLite database and its HTTP server in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caikit_pt.tracking.mlflow import MLflow
from caikit_pt.tracking.point import Point, Told
from caikit_pt.tracking.track import FAILED, FINISHED, Refused
from examples.local_server import free_port
from tests.tracking.mlflow_server import mlflow_server
from tests.tracking.training import TRAINING, losses

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def address(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server over `database`."""
    with mlflow_server(database, tmp_path_factory.mktemp("artifacts")) as address:
        yield address


@pytest.fixture(params=["server", "database"])
def uri(request: pytest.FixtureRequest, address: str, database: str) -> str:
    return address if request.param == "server" else database


@pytest.fixture
def client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def kind(uri: str) -> str:
    return uri.partition(":")[0]


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def test_a_training_is_a_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    experiment = f"whole {kind(uri)}"
    (tmp_path / "config.yml").write_text("base_model_name: b\n")
    track = MLflow(uri, experiment).open(TRAINING)
    track.log([*losses(1, 1500, 1001.0), Point("eval/accuracy", 0.5, 700, 1001.0)])
    track.end(FINISHED, "The course of the loss: settled.", 1002.25)
    track.keep(tmp_path, f"mood-{kind(uri)}")
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

    name, experiment = f"back-{kind(uri)}", f"back {kind(uri)}"
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
    mlflow.artifacts.download_artifacts(
        f"models:/{name}/2", dst_path=str(tmp_path / "back"), tracking_uri=uri
    )
    assert (tmp_path / "back" / "config.yml").read_text() == "base_model_name: b\n"


def test_a_training_that_goes_on_does_so_in_its_run(uri: str, client: MlflowClient) -> None:
    """What is told again, or trained again, is there once."""
    experiment = f"goes on {kind(uri)}"
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
    experiment = f"lost {kind(uri)}"
    track = MLflow(uri, experiment).open(TRAINING)
    for _ in range(2):
        track._told = Told({})
        track.log(losses(1, 10, 1001.0))
    (run,) = runs(client, experiment)
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 10


def test_what_would_never_be_taken_is_refused(uri: str, client: MlflowClient) -> None:
    experiment = f"deleted {kind(uri)}"
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
