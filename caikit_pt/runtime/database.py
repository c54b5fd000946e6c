"""What jobs are kept in: a file of this server's own (sqlite_database.py), or a PostgreSQL database that many
servers share (postgres_database.py).

Queries are in the SQL that both know; a value's place is `?`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias


class Row(Protocol):
    """A row of an answer: its values in order, and by the names of their columns."""

    def __getitem__(self, key: int | str, /) -> Any: ...

    def keys(self) -> Sequence[str]:
        """The names of its columns."""
        ...


class Transaction(ABC):
    """All of its statements happen, or none."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows that a query has, or a RETURNING."""


class Database(ABC):
    """Any thread may read and write. What a call returned for is there after the power fails.

    Everything raises StateUnavailable where that can't be done now.
    """

    # Whether other servers may be at it, too.
    is_shared = False

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._changes = 0

    @property
    def changes(self) -> int:
        """Grows with every write of this process, and with those of others that it hears of."""
        return self._changes

    def wait_for_change(self, seen: int, seconds: float) -> int:
        """Until there are other than the `seen` changes, or so long; how many there are now."""
        with self._changed:
            self._changed.wait_for(lambda: self._changes != seen, seconds)
            return self._changes

    def _tell_of_change(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    @abstractmethod
    def migrate(self, steps: Sequence[Step]) -> None:
        """Brings its tables up to date; it knows how many of the `steps` it has been through. Raises
        StateUnavailable where it is of a later release, too."""

    @abstractmethod
    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows that a query has."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Transaction]:
        """A transaction that no other is beside, from its start on, so that it can't fail half-way."""

    @abstractmethod
    def matching(self, column: str, globs: Sequence[str]) -> tuple[str, Sequence[str]]:
        """A condition, and its values: `column` matches one of some globs of `*` and `[c]`, a `c` that means
        itself."""

    @abstractmethod
    def counting(self, table: str, column: str, counts: str) -> Sequence[str]:
        """Statements that have the database itself count rows, whoever writes them: with each transaction, in
        the table `counts` the `number` of rows of `table` with each `value` of a column that stands there."""

    @abstractmethod
    def close(self) -> None:
        """Nobody will ask it any more."""


# Of a migration: SQL that both know, or what a database has of its own for it.
Step: TypeAlias = str | Callable[[Database], Sequence[str]]


def statements(step: Step, database: Database) -> Sequence[str]:
    """Those of a step of a migration of `database`."""
    return [one for one in step.split(";") if one.strip()] if isinstance(step, str) else step(database)


def schema_of_a_later_release(where: str, version: int, known: int) -> str:
    """What is said where a database has been through more steps than this release knows."""
    return (
        f"{where} has schema {version}, from a later release; this one knows schemas up to {known}. Run that "
        "release, or name another"
    )
