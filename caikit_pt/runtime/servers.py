"""The servers that share a database of jobs, as they know each other: by beats, which are counted up.

No clock is compared with another machine's: whoever sees a server's count stand still for long enough holds
it for dead.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.runtime.database import Database
from caikit_pt.runtime.job import RUNNING

# The beat of a server that has left.
GONE = -1


@dataclass(frozen=True, slots=True)
class Server:
    """`beat`: how often it has shown that it lives."""

    id: str
    name: str
    beat: int


class Servers:
    """Those in `database`. Every method raises StateUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(self, name: str) -> str:
        """The id of one more, which says of itself that it is `name`."""
        id = uuid.uuid4().hex
        with self._database.writing() as transaction:
            transaction.execute("INSERT INTO servers (id, name) VALUES (?, ?)", (id, name))
        return id

    def beat(self, id: str) -> bool:
        """It lives; whether the others don't hold it for dead."""
        with self._database.writing() as transaction:
            return bool(
                transaction.execute(
                    "UPDATE servers SET beat = beat + 1 WHERE id = ? AND beat != ? RETURNING beat", (id, GONE)
                )
            )

    def all(self) -> Sequence[Server]:
        """Those that there are, in the order in which they came."""
        rows = self._database.read("SELECT id, name, beat FROM servers ORDER BY number")
        return [Server(*row) for row in rows]

    def bury(self, dead: Server, heir: str) -> Collection[tuple[str, int]] | None:
        """What `dead` has is had by `heir` from now on, unless it has beaten since: None then. The jobs that
        ran there, with the numbers of their runs."""
        taken: list[Any] = []
        with self._database.writing() as transaction:
            gone = transaction.execute(
                "DELETE FROM servers WHERE id = ? AND beat = ?"
                " AND EXISTS (SELECT 1 FROM servers AS other WHERE other.id = ? AND other.beat != ?)"
                " RETURNING id",
                (dead.id, dead.beat, heir, GONE),
            )
            for _ in gone:
                taken = transaction.execute(
                    "UPDATE jobs SET owner = ? WHERE owner = ? RETURNING id, fence, state", (heir, dead.id)
                )
        return {(id, fence) for id, fence, state in taken if state == RUNNING} if gone else None

    def adopt(self, heir: str) -> None:
        """What is had by nobody that there is is had by `heir`."""
        orphans = "owner != '' AND owner NOT IN (SELECT id FROM servers)"
        if self._database.read(f"SELECT 1 FROM jobs WHERE {orphans} LIMIT 1"):
            with self._database.writing() as transaction:
                transaction.execute(f"UPDATE jobs SET owner = ? WHERE {orphans}", (heir,))

    def bury_all_but(self, heir: str) -> Collection[tuple[str, int]]:
        """No other lives: what they had, and what nobody has and is under way, is had by `heir`. The jobs
        that ran at one that hasn't left, with the numbers of their runs."""
        with self._database.writing() as transaction:
            lost = transaction.execute(
                "SELECT jobs.id, fence FROM jobs JOIN servers ON owner = servers.id"
                " WHERE state = ? AND servers.id != ? AND beat != ?",
                (RUNNING, heir, GONE),
            )
            transaction.execute("DELETE FROM servers WHERE id != ?", (heir,))
            # By indexes: there may be a million jobs that have ended.
            for whose in ("owner != ''", "state = 'RUNNING'", "state = 'QUEUED' AND is_open = 1"):
                transaction.execute(f"UPDATE jobs SET owner = ? WHERE {whose}", (heir,))
        return {(id, fence) for id, fence in lost}

    def leave(self, id: str) -> None:
        """It is no more; what it has is for any other."""
        with self._database.writing() as transaction:
            transaction.execute("UPDATE servers SET beat = ? WHERE id = ?", (GONE, id))
            transaction.execute(
                "DELETE FROM servers WHERE id = ? AND NOT EXISTS"
                " (SELECT 1 FROM jobs WHERE owner = ? AND owner != '')",
                (id, id),
            )
