"""Jobs in an SQLite file, written ahead (WAL) and synchronously."""

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
from caikit_pt.runtime.database import Database, Step, Transaction, schema_of_a_later_release, statements

_LOG = logging.getLogger(__name__)
_LOCK_SECONDS = 10.0


class SqliteDatabase(Database):
    """The one in `file`, which is made where it isn't there."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._local = threading.local()

    def migrate(self, steps: Sequence[Step]) -> None:
        """See Database."""
        with self.writing() as transaction:
            version = transaction.execute("PRAGMA user_version")[0][0]
            if version > len(steps):
                where = f"{self._file.name} in state_dir"
                raise StateUnavailable(f"{schema_of_a_later_release(where, version, len(steps))} state_dir.")
            for statement in (one for step in steps[version:] for one in statements(step, self)):
                transaction.execute(statement)
            transaction.execute(f"PRAGMA user_version = {len(steps)}")

    @property
    def _connection(self) -> sqlite3.Connection:
        """One for each thread."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = _open(self._file)
            self._local.connection = found
        return found

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """See Database."""
        with state_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """See Database. It has the lock from its start."""
        with state_errors():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._tell_of_change()

    def matching(self, column: str, globs: Sequence[str]) -> tuple[str, Sequence[str]]:
        """See Database."""
        return f"({' OR '.join([f'{column} GLOB ?'] * len(globs)) or 'FALSE'})", globs

    def counting(self, table: str, column: str, counts: str) -> Sequence[str]:
        """See Database."""
        more, less = (
            f"UPDATE {counts} SET number = number {sign} 1 WHERE value = {row}.{column};"
            for sign, row in (("+", "NEW"), ("-", "OLD"))
        )
        return [
            f"CREATE TRIGGER {counts}_after_{name} AFTER {event} ON {table} BEGIN {changes} END"
            for name, event, changes in (
                ("insert", "INSERT", more),
                ("delete", "DELETE", less),
                ("update", f"UPDATE OF {column}", f"{less} {more}"),
            )
        ]

    def close(self) -> None:
        """See Database. Each thread's connection goes with it."""


class _SqliteTransaction(Transaction):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()


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
