"""An SQLite database that any thread may read and write.

Written ahead (WAL) and synchronously: what a call returned for is there after the power fails.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from caikit_pt.errors import StateUnavailable

_LOG = logging.getLogger(__name__)
_LOCK_SECONDS = 10.0


class Database:
    """The one in `file`, which is made where it isn't there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._local = threading.local()
        self._changed = threading.Condition()
        self._changes = 0

    @property
    def changes(self) -> int:
        """Grows with every write of this process."""
        return self._changes

    def wait_for_change(self, seen: int, seconds: float) -> int:
        """Until there are other than the `seen` changes, or so long; how many there are now."""
        with self._changed:
            self._changed.wait_for(lambda: self._changes != seen, seconds)
            return self._changes

    def migrate(self, steps: Sequence[str]) -> None:
        """Brings it up to date; its `user_version` is how many of the `steps` it has been through.

        Raises StateUnavailable where it is of a later release.
        """
        with self.writing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(steps):
                raise StateUnavailable(
                    f"{self._file.name} in state_dir has schema {version}, from a later release; this one "
                    f"knows schemas up to {len(steps)}. Run that release, or name another state_dir."
                )
            for step in steps[version:]:
                for statement in filter(str.strip, step.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(steps)}")

    @property
    def _connection(self) -> sqlite3.Connection:
        """One for each thread."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = _open(self._file)
            self._local.connection = found
        return found

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows that a query has. Raises StateUnavailable."""
        with state_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the lock from its start, so that it can't fail half-way for want of it.

        Raises StateUnavailable.
        """
        with state_errors():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        with self._changed:
            self._changes += 1
            self._changed.notify_all()


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.row_factory = sqlite3.Row
    return connection


def _is_sound(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file, timeout=_LOCK_SECONDS)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.OperationalError:
        raise  # locked, or not readable: not damaged
    except sqlite3.DatabaseError:
        return False


def set_aside_if_damaged(file: Path) -> Path | None:
    """Where a damaged one has gone; None where it is sound. Raises StateUnavailable where nobody can tell."""
    with state_errors():
        return _set_aside(file) if file.exists() and not _is_sound(file) else None


def _set_aside(file: Path) -> Path:
    """A damaged database makes room for a new one. Nothing of it is deleted."""
    aside = file.with_name(f"{file.name}.damaged-{time.time_ns()}")
    for ending in ("", "-wal", "-shm"):
        part = file.with_name(file.name + ending)
        if part.exists():
            os.replace(part, aside.with_name(aside.name + ending))
    _LOG.error(
        "%s is damaged; it is kept as %s, and what can be read of it is taken over", file.name, aside.name
    )
    return aside


@contextmanager
def state_errors() -> Iterator[None]:
    """Raises StateUnavailable in the place of SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailable(f"The jobs in state_dir can't be read or written now: {error}") from error
