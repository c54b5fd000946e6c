"""What the log says of a start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.runtime.start_log import NOISE, lines, quiet
from caikit_pt.settings import Settings, Tracing
from tests.conftest import BASE_MODELS


def config(**tls: Any) -> dict[str, Any]:
    runtime = {"grpc": {"port": 1}, "metrics": {"port": 2, "enabled": True}, "local_models_dir": "models"}
    return {"runtime": {**runtime, "tls": tls}}


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ({}, "without TLS, metrics"),
        ({"server": {"key": "k", "cert": "c"}}, "with TLS, metrics"),
        ({"server": {"key": "k", "cert": "c"}, "client": {"cert": "c"}}, "for clients with a certificate"),
    ],
)
def test_how_the_port_is_guarded(tls: dict[str, Any], told: str) -> None:
    first = lines(config(**tls), Settings())[0]
    assert told in first
    assert "gRPC on port 1" in first
    assert "metrics on port 2" in first


def test_where_things_are(tmp_path: Path) -> None:
    tracing = Tracing(endpoint="host:4317")
    told = lines(config(), Settings(base_models_dir=str(BASE_MODELS), tracing=tracing))
    assert told[1:] == [
        "tuned prompts: models; jobs: state",
        f"base models: tiny-llama, tiny-t5 (in {BASE_MODELS})",
        "traces: host:4317",
    ]
    assert "none" in lines(config(), Settings(base_models_dir=str(tmp_path)))[-1]
    assert "Hugging Face cache" in lines(config(), Settings())[-1]


def test_noise_is_dropped_and_errors_are_not(caplog: pytest.LogCaptureFixture) -> None:
    filters = {name: list(logging.getLogger(name).filters) for name in NOISE}
    quiet()
    try:
        with caplog.at_level(logging.INFO):
            for channel, said in NOISE.items():
                log = logging.getLogger(channel)
                log.info({"log_code": said[0], "message": "x"})
                log.error({"log_code": said[0], "message": "an error"})
                log.info("something else")
        told = [(one.name, one.levelname) for one in caplog.records if one.name in NOISE]
        assert told == [(name, level) for name in NOISE for level in ("ERROR", "INFO")]
    finally:
        for name, known in filters.items():
            logging.getLogger(name).filters[:] = known
