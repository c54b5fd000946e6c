"""Settings that no server can start with, and what is told of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aconfig
import caikit
import pytest
from caikit.config.config import BASE_CONFIG_PATH, merge_configs

import caikit_pt
from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime import configuration
from caikit_pt.tracking import trackers
from examples.local_server import free_port

Check = Callable[..., list[str]]
WRONG = {
    "apart from where is served": ({"RUNTIME_TRAINING_OUTPUT_DIR": "out"}, "unset, or models as"),
    "ids in the path": ({"RUNTIME_TRAINING_SAVE_WITH_ID": "true"}, "false: a request names a model"),
    "nothing is loaded": ({"RUNTIME_LAZY_LOAD_LOCAL_MODELS": "false"}, "true: a tuned prompt is loaded"),
    "a poll without a pause": ({"RUNTIME_LAZY_LOAD_POLL_PERIOD_SECONDS": "0"}, "from 1 up"),
    "no poll": ({"RUNTIME_LAZY_LOAD_POLL_PERIOD_SECONDS": "off"}, "a number from 1 up"),
    "no training": ({"RUNTIME_SERVICE_GENERATION_ENABLE_TRAINING": "false"}, "max_queued: 0"),
    "HTTP": ({"RUNTIME_HTTP_ENABLED": "true"}, "gRPC alone"),
    "no gRPC": ({"RUNTIME_GRPC_ENABLED": "false"}, "gRPC alone"),
    "a port": ({"RUNTIME_GRPC_PORT": "abc"}, "a whole number from 1 to 65,535"),
    "no threads": ({"RUNTIME_SERVER_THREAD_POOL_SIZE": "0"}, "from 1 up"),
    "a level": ({"LOG_LEVEL": "loud"}, "info"),
    "models that are not there": ({"BASE_MODELS_DIR": "nowhere"}, "a directory that is there"),
    "data that is not there": ({"DATA_STREAMS_FILE_SOURCE_BASE": "nowhere"}, "a directory that is there"),
    "the state among the models": ({"STATE_DIR": "models/state"}, "would take its place"),
    "bases among the models": ({"BASE_MODELS_DIR": "models"}, "would take its place"),
    "the models in the state": ({"RUNTIME_LOCAL_MODELS_DIR": "state/models"}, "outside state_dir"),
    "the models everywhere": ({"RUNTIME_LOCAL_MODELS_DIR": "."}, "for tuned prompts alone"),
    "a file for the models": ({"RUNTIME_LOCAL_MODELS_DIR": "file"}, "that this server may write"),
    "half of TLS": ({"RUNTIME_TLS_SERVER_KEY": "file"}, "open without TLS"),
    "a key that is not there": ({"RUNTIME_TLS_SERVER_KEY": "key.pem"}, "a PEM file"),
    "a device": ({"DEVICE": "cuda:99"}, "on this machine"),
    "a number": ({"MAX_QUEUED": "abc"}, "a whole number"),
}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """The check of a server that is started in an empty directory with the environment given."""
    for name in list(os.environ):
        if name.startswith(("RUNTIME_", "CONFIG_FILES")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def check(**environment: str) -> list[str]:
        ports = {"RUNTIME_GRPC_PORT": str(free_port()), "RUNTIME_METRICS_PORT": str(free_port())}
        for name, value in {**ports, **environment}.items():
            monkeypatch.setenv(name, value)
        files = BASE_CONFIG_PATH, str(Path(caikit_pt.__file__).with_name("config.yml"))
        base, ours = (aconfig.Config.from_yaml(file) for file in files)
        config: Any = aconfig.Config(merge_configs(base, ours))
        monkeypatch.setattr(caikit, "get_config", lambda: config)
        return configuration.check()

    return check


def test_the_package_alone_can_start(check: Check, tmp_path: Path) -> None:
    assert check() == []
    assert (tmp_path / "models").is_dir()


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_are_refused(check: Check, tmp_path: Path, case: str) -> None:
    environment, allowed = WRONG[case]
    (tmp_path / "file").touch()
    (tmp_path / "models").mkdir()
    with pytest.raises(InvalidParameter) as error:
        check(**environment)
    assert str(error.value).startswith(("state_dir: ", "runtime.tls.server.cert: ", *environment))
    assert allowed in error.value.allowed
    assert "\n" not in str(error.value)


def test_records_of_other_trainings_are_no_training_files(check: Check, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"state_dir: 'state' .* outside data_streams\.file_source"):
        check(DATA_STREAMS_FILE_SOURCE_BASE=str(tmp_path))


def test_the_same_directory_in_other_words(check: Check, tmp_path: Path) -> None:
    assert check(RUNTIME_TRAINING_OUTPUT_DIR=str(tmp_path / "models")) == []


def test_no_key_is_told(check: Check) -> None:
    with pytest.raises(InvalidParameter, match="RUNTIME_TLS_SERVER_KEY") as error:
        check(RUNTIME_TLS_SERVER_KEY="a secret")
    assert "secret" not in str(error.value)


MISSING = {
    "TRACKING_MLFLOW_URI": ("http://host:5000", "mlflow", "caikit-pt[mlflow]"),
    "TRACKING_TENSORBOARD_DIRECTORY": ("runs", "tensorboard", "caikit-pt[tensorboard]"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_tracker_whose_package_is_missing(check: Check, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, package, requirement = MISSING[name]
    assert check(**{name: value}) == []
    monkeypatch.setattr(trackers, "find_spec", lambda asked: None if asked == package else object())
    with pytest.raises(InvalidParameter) as error:
        check(**{name: value})
    allowed = f"unset, or with more installed: pip install '{requirement}'"
    assert str(error.value) == f"{name}: '{value}' is not allowed. Allowed: {allowed}"


@pytest.mark.parametrize("name", ["RUNTIME_GRPC_PORT", "RUNTIME_METRICS_PORT"])
def test_a_port_that_is_taken(check: Check, name: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidParameter, match=f"{name}: {port} .* a port that is free"):
            check(**{name: str(port)})
