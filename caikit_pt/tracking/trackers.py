"""The trackers that the settings name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import check_writable
from caikit_pt.settings import Tracking, as_set
from caikit_pt.tracking.mlflow import MLflow
from caikit_pt.tracking.tensorboard import TensorBoard
from caikit_pt.tracking.track import Tracker

_DATABASE = ("sqlalchemy", "alembic")


def trackers(tracking: Tracking) -> Sequence[Tracker]:
    """None of them has been reached yet. Raises InvalidParameter where a package is missing, or a directory
    can't be written to."""
    made: list[Tracker] = []
    if tracking.mlflow_uri:
        _need("tracking.mlflow.uri", tracking.mlflow_uri, "caikit-pt[mlflow]", "mlflow")
        if tracking.mlflow_uri.startswith("sqlite:"):
            _need("tracking.mlflow.uri", tracking.mlflow_uri, " ".join(_DATABASE), *_DATABASE)
        made.append(MLflow(tracking.mlflow_uri, tracking.mlflow_experiment))
    if tracking.tensorboard_directory:
        name = "tracking.tensorboard.directory"
        _need(name, tracking.tensorboard_directory, "caikit-pt[tensorboard]", "tensorboard")
        allowed = "unset, or a directory that this server may write"
        check_writable(Path(tracking.tensorboard_directory), as_set(name), allowed)
        made.append(TensorBoard(tracking.tensorboard_directory))
    return made


def _need(setting: str, value: str, requirement: str, *packages: str) -> None:
    if not all(map(find_spec, packages)):
        allowed = f"unset, or with more installed: pip install '{requirement}'"
        raise InvalidParameter(as_set(setting), value, allowed)
