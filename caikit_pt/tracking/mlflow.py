"""MLflow: a run for each training, and a version in the model registry for each tuned prompt.

The client of mlflow-skinny, whose own environment variables hold credentials (MLFLOW_TRACKING_USERNAME,
MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN ...). A run knows its training by a tag, so that a training
that goes on does so in its run. What is sent twice, because an answer was lost, is there once: to MLflow
points with one name, step, time and value are one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import in_short
from caikit_pt.tracking.point import Point, Told
from caikit_pt.tracking.track import FAILED, Refused, Training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_TRAINING_ID, _REASON = "caikit_pt.training_id", "caikit_pt.reason"
_ARTIFACT = "prompt"
# Of MLflow's API: metrics in a request, characters of a value.
_MOST_METRICS, _LONGEST_VALUE = 1000, 5000
# What another try may help: MLflow says INTERNAL_ERROR where there is no answer, too.
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_OF_CREDENTIALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")


class MLflow:
    """The server, or the SQLite database, at `uri`."""

    name, keeps_prompts = "MLflow", True

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._experiment = uri.rstrip("/"), experiment

    def open(self, training: Training) -> MLflowRun:
        """As Tracker says."""
        # It would tell its makers of each run.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        with _refusals(*_OF_CREDENTIALS):
            client = MlflowClient(self._uri)
            experiment = self._experiment_id(client)
            known = f"tags.`{_TRAINING_ID}` = '{training.id}'"
            found = client.search_runs([experiment], known, max_results=1)
            run = found[0] if found else _created(client, experiment, training)
            opened = MLflowRun(client, run, self._address(run))
            opened.describe(training)
            return opened

    def _experiment_id(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._uri.startswith("sqlite:"):
            # MLflow's default is where this process was started.
            location = str(Path(self._uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts")
        return str(client.create_experiment(self._experiment, location))

    def _address(self, run: Run) -> str:
        where = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        return f"{self._uri}/#/{where}" if self._uri.startswith("http") else f"{self._uri}, {where}"


class MLflowRun:
    """A training at MLflow."""

    def __init__(self, client: MlflowClient, run: Run, address: str) -> None:
        self.address = address
        self._client, self._id = client, str(run.info.run_id)
        history = {name: client.get_metric_history(self._id, name) for name in run.data.metrics}
        self._told = Told({name: max(point.step for point in points) for name, points in history.items()})
        if run.info.status != "RUNNING":
            client.update_run(self._id, status="RUNNING")

    def describe(self, training: Training) -> None:
        """Parameters, and tags that tell where those came from that aren't defaults."""
        from mlflow.entities import Param, RunTag

        values = [Param(name, value[:_LONGEST_VALUE]) for name, value in training.values.items()]
        tags = [RunTag(f"origin.{name}", origin) for name, origin in training.origins.items()]
        self._client.log_batch(self._id, params=values, tags=tags)

    def log(self, points: Sequence[Point]) -> None:
        """As Track says."""
        from mlflow.entities import Metric

        new = self._told.new(points)
        for start in range(0, len(new), _MOST_METRICS):
            some = new[start : start + _MOST_METRICS]
            metrics = [Metric(one.name, one.value, int(one.time * 1000), one.step) for one in some]
            with _refusals(*_OF_CREDENTIALS):
                self._client.log_batch(self._id, metrics)
            self._told.add(some)

    def keep(self, artifact: Path, model_name: str) -> None:
        """As Track says."""
        with _refusals():
            self._client.log_artifacts(self._id, str(artifact), _ARTIFACT)
            if model_name:
                self._register(model_name)

    def _register(self, model_name: str) -> None:
        """A version of this run, unless there is one."""
        if self._client.search_model_versions(f"run_id='{self._id}'"):
            return
        if not self._client.search_registered_models(f"name='{model_name}'"):
            self._client.create_registered_model(model_name)
        source = f"runs:/{self._id}/{_ARTIFACT}"
        self._client.create_model_version(model_name, source, self._id, await_creation_for=0)

    def end(self, state: str, text: str, time: float) -> None:
        """As Track says."""
        with _refusals(*_OF_CREDENTIALS):
            if text:
                name = _REASON if state == FAILED else "mlflow.note.content"
                self._client.set_tag(self._id, name, text[:_LONGEST_VALUE])
            self._client.set_terminated(self._id, state, int(time * 1000))


def _created(client: MlflowClient, experiment: str, training: Training) -> Run:
    tags: dict[str, Any] = {_TRAINING_ID: training.id, "mlflow.source.name": "caikit_pt"}
    return client.create_run(experiment, int(training.started * 1000), tags, training.name)


@contextmanager
def _refusals(*passing: str) -> Iterator[None]:
    """Raises Refused in the place of an error that another try doesn't help, unless its code is `passing`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in (*_PASSING, *passing):
            raise
        raise Refused(in_short(error)) from error
