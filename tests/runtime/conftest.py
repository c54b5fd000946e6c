"""What the tests of the runtime share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; where there is none, the test is skipped."""
    server = Postgres()
    yield server
    server.close()
