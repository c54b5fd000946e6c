"""A real PostgreSQL server of a test's own, from what Debian installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from examples.local_server import free_port
from tests.runtime.servers import wait_for

# The newest that there is.
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
_USER = "postgres"


class Postgres:
    """With as many empty databases as are asked for."""

    def __init__(self) -> None:
        if not _PROGRAMS:
            pytest.skip("there is no PostgreSQL server (apt-get install postgresql)")
        self.port = free_port()
        # Of an account that isn't root's, which PostgreSQL wants.
        self._directory = Path(tempfile.mkdtemp(prefix="caikit-pt-postgres-"))
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self._directory, _USER)
        self._do("initdb", "-D", self._data, "-U", _USER, "-A", "trust", "--no-sync")
        self.start()

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _command(self, program: str, *arguments: str) -> list[str]:
        own = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        return [*own, str(_PROGRAMS[-1] / program), *arguments]

    def _do(self, program: str, *arguments: str) -> None:
        command = self._command(program, *arguments)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._directory)

    def start(self) -> None:
        """It takes connections when this returns."""
        options = f"-p {self.port} -k {self._directory} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._do("pg_ctl", "start", "-w", "-D", self._data, "-l", f"{self._directory}/log", "-o", options)

    def stop(self) -> None:
        """At once; who is connected is cut off."""
        self._do("pg_ctl", "stop", "-m", "immediate", "-D", self._data)

    def database(self) -> str:
        """The address of a new one."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.address(name)

    def address(self, database: str, port: int | None = None) -> str:
        """Of a database, at another port where something stands in between."""
        return f"postgresql://{_USER}@127.0.0.1:{port or self.port}/{database}"

    def close(self) -> None:
        """However it stands."""
        subprocess.run(
            self._command("pg_ctl", "stop", "-m", "immediate", "-D", self._data),
            check=False,
            capture_output=True,
            cwd="/",
        )
        wait_for(lambda: not (self._directory / "data" / "postmaster.pid").exists())
        shutil.rmtree(self._directory, ignore_errors=True)
