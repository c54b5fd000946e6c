"""What the tests of the runtime share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from caikit_pt.client import TuningClient

from .postgres import Postgres
from .servers import Server, Servers


@pytest.fixture(scope="module")
def executor() -> Mapping[str, object]:
    """The settings of servers that say where their trainings are run: in processes of their own."""
    return {}


@pytest.fixture
def servers(executor: Mapping[str, object]) -> Iterator[Servers]:
    """They are stopped at the end."""
    made = Servers(**executor)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(
    executor: Mapping[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, TuningClient]]:
    """One that is neither killed nor filled."""
    settings = {"CHECKPOINT_SECONDS": 0.2, "PREPARE_TRAININGS": True, **executor}
    server = Server(tmp_path_factory.mktemp("shared"), **settings)
    yield server, server.start()
    server.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; where there is none, the test is skipped."""
    server = Postgres()
    yield server
    server.close()
