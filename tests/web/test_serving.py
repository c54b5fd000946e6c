"""`caikit-pt web` as it is started: where it may listen, and what becomes of it when the server is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from caikit_pt.client.security import Security
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Web
from caikit_pt.web.serving import serve
from examples.local_server import ROOT, free_port
from tests.runtime.servers import Server, wait_for

OPEN = Web(host="0.0.0.0", server="localhost:1")


@pytest.mark.parametrize(
    ("now", "security", "field"),
    [
        (OPEN, Security(), "web.host"),
        (replace(OPEN, host="tuning.example.org"), Security(), "web.host"),
        (Web(server="elsewhere.example.org:8085"), Security(), "token"),
        (Web(), Security(tls=False, ca="x"), "tls"),
    ],
)
def test_what_would_let_others_in_or_listen_is_refused(now: Web, security: Security, field: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        serve(now, security, allow_insecure=False)
    assert error.value.field == field


@contextmanager
def web(server: int, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "caikit_pt.cli",
        "web",
        "--server",
        f"localhost:{server}",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
    try:
        yield f"http://localhost:{port}", process
    finally:
        process.kill()
        process.wait()


def asked(address: str) -> tuple[int, str]:
    """Status and text; 0 where nobody is there."""
    try:
        with urlopen(address, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_it_says_that_the_server_is_away_and_comes_back(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with web(server.port, tmp_path) as (address, process):
        wait_for(lambda: asked(address)[0])
        assert asked(address)[0] == 503
        assert "away" in asked(address)[1]
        code, text = asked(f"{address}/v1/models")
        assert code == 503
        assert json.loads(text)["error"]["type"] == "server_error"
        server.start().close()
        wait_for(lambda: asked(address)[0] == 200)
        assert asked(f"{address}/v1/models") == (200, '{"object":"list","data":[]}')
        server.kill()
        wait_for(lambda: asked(address)[0] == 503)
        # Who follows something live doesn't hold up its end.
        with urlopen(f"{address}/studio/trainings", timeout=30) as live:
            assert live.status == 200
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 8
    assert "Traceback" not in (tmp_path / "web.log").read_text()
