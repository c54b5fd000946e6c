"""Every job that was ever accepted, with its events, in a database.

Any thread may call, and what a call returned for is there after the power fails. A job's folder holds the
same facts as files, for the day the database is damaged. Every method raises StateUnavailable.

A job that is under way is had by one server, its `owner`, in the run that its `fence` counts. What is noted
of a job as somebody has found it, `held`, is noted as long as both are the same, and else left out: another
server may have taken it over meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from caikit_pt.errors import TooManyJobs
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.database import Database, Row, Step, Transaction
from caikit_pt.runtime.job import (
    ARTIFACT,
    CANCELED,
    COMPLETED,
    PROGRESS,
    QUEUED,
    RUNNING,
    STATES,
    TERMINAL,
    WAITING,
    Event,
    Job,
)
from caikit_pt.runtime.job_queue import IS_FREE, JobQueue
from caikit_pt.runtime.servers import Servers
from caikit_pt.runtime.sqlite_database import SqliteDatabase, set_aside_if_damaged, state_errors

DATABASE = "jobs.sqlite3"
_MIGRATIONS: Sequence[Step] = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        model_name TEXT NOT NULL,
        path TEXT NOT NULL,
        digest TEXT NOT NULL,
        parameters TEXT NOT NULL,
        state TEXT NOT NULL,
        submitted REAL NOT NULL,
        started REAL,
        ended REAL,
        deaths INTEGER NOT NULL DEFAULT 0,
        reasons TEXT NOT NULL DEFAULT '[]'
    );
    CREATE INDEX jobs_by_state ON jobs (state, number);
    CREATE TABLE events (
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE jobs ADD COLUMN progress TEXT NOT NULL DEFAULT '{}';
    CREATE INDEX jobs_by_name ON jobs (model_name, number);
    """,
    """
    CREATE TABLE tracked (
        job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
        tracker TEXT NOT NULL,
        PRIMARY KEY (job, tracker)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE jobs ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
    CREATE INDEX jobs_by_tenant ON jobs (tenant, started);
    """,
    """
    ALTER TABLE jobs ADD COLUMN makes TEXT NOT NULL DEFAULT 'prompt';
    """,
    """
    ALTER TABLE jobs ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN is_open INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_by_end ON jobs (ended);
    """,
    """
    ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN wish TEXT NOT NULL DEFAULT '';
    CREATE INDEX jobs_by_owner ON jobs (owner) WHERE owner != '';
    CREATE TABLE servers (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        beat INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE directory (id TEXT NOT NULL);
    CREATE INDEX jobs_by_turn ON jobs (state, tenant, number);
    CREATE INDEX jobs_by_path ON jobs (path, state, number);
    """,
    # It has ended, and its folder has still more than what is kept. Of an earlier release's latest nobody
    # knows.
    """
    ALTER TABLE jobs ADD COLUMN to_clear INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET to_clear = 1 WHERE number IN
        (SELECT number FROM jobs WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT 1000);
    CREATE INDEX jobs_to_clear ON jobs (number) WHERE to_clear = 1;
    """,
    """
    ALTER TABLE jobs ADD COLUMN least_memory INTEGER NOT NULL DEFAULT 0;
    """,
    # A million are counted in a tenth of a second, and walked through in more.
    f"""
    CREATE TABLE job_counts (value TEXT PRIMARY KEY, number INTEGER NOT NULL);
    INSERT INTO job_counts {" UNION ALL ".join(f"SELECT '{state}', 0" for state in STATES)};
    UPDATE job_counts SET number = (SELECT COUNT(*) FROM jobs WHERE state = value);
    CREATE INDEX jobs_by_publisher ON jobs (tenant, path) WHERE state = 'COMPLETED';
    """,
    lambda database: database.counting("jobs", "state", "job_counts"),
)

# Each path by one step down an index, however often it was trained.
_PATHS_OF_ALL = """
    WITH RECURSIVE published (path) AS (
        SELECT MIN(path) FROM jobs
        UNION ALL
        SELECT (SELECT MIN(path) FROM jobs WHERE path > published.path) FROM published WHERE path IS NOT NULL
    )
    SELECT path FROM published
    WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.path = published.path AND state = 'COMPLETED')
"""
_PATHS_OF_ONE = """
    WITH RECURSIVE published (path) AS (
        SELECT MIN(path) FROM jobs WHERE state = 'COMPLETED' AND tenant = ?
        UNION ALL
        SELECT (SELECT MIN(path) FROM jobs WHERE state = 'COMPLETED' AND tenant = ? AND path > published.path)
        FROM published WHERE path IS NOT NULL
    )
    SELECT path FROM published WHERE ? = (SELECT tenant FROM jobs
        WHERE jobs.path = published.path AND state = 'COMPLETED' ORDER BY number DESC LIMIT 1)
"""

_FIELDS = frozenset(field.name for field in fields(Job))
_JSON = frozenset({"parameters", "reasons", "progress"})


class JobStore:
    """The jobs in `directory`, or in the PostgreSQL database at an `address`; those that haven't ended yet
    are for `trackers` to tell of."""

    def __init__(self, directory: Path, trackers: Sequence[str] = (), address: str = "") -> None:
        """Raises StateUnavailable where the database is from a later release, or can't be opened."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = directory / DATABASE
        self._trackers = tuple(trackers)
        damaged = None if address else set_aside_if_damaged(file)
        self._database = _shared(address) if address else SqliteDatabase(file)
        self._database.migrate(_MIGRATIONS)
        self.servers = Servers(self._database)
        self.queue = JobQueue(self._database)
        for job, events in salvaged(damaged) if damaged else ():
            self._take_over(job, events)
        if trackers:
            with self._database.writing() as transaction:
                self._begin_to_track(transaction, f"state NOT IN {TERMINAL}")

    @property
    def is_shared(self) -> bool:
        """Whether other servers may have it, too."""
        return self._database.is_shared

    def belongs_to(self, directory: str) -> bool:
        """Whether the folders of its jobs are in the `state_dir` with this id; the first that asks has it."""
        with self._database.writing() as transaction:
            known = transaction.execute("SELECT id FROM directory")
            if not known:
                transaction.execute("INSERT INTO directory VALUES (?)", (directory,))
        return not known or known[0][0] == directory

    def close(self) -> None:
        """Nobody will ask it any more."""
        self._database.close()

    # ---- jobs ----

    def add(
        self,
        job: Job,
        most: int | None = None,
        check_waiting: Callable[[Callable[[], int]], None] | None = None,
    ) -> Job:
        """A new job, last in the queue; the one there is where its id is known already. Where it isn't, it
        raises TooManyJobs if `most` are queued, and what `check_waiting` does, which may count how many of
        its tenant's wait; whoever else adds some now."""
        row = (
            job.id,
            job.model_name,
            job.path,
            job.digest,
            _text(job.parameters),
            job.state,
            job.submitted,
            job.started,
            job.ended,
            _text(list(job.reasons)),
            job.tenant,
            job.makes,
            job.fence,
            job.memory,
            job.least_memory,
        )
        with self._database.writing() as transaction:
            is_new = not transaction.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,))
            if is_new and check_waiting is not None:
                check_waiting(lambda: int(transaction.execute(*_counted(WAITING, job.tenant))[0][0]))
            if is_new and most is not None:
                queued = transaction.execute("SELECT number FROM job_counts WHERE value = ?", (QUEUED,))
                _check_queue(queued[0][0], most)
            added = transaction.execute(
                "INSERT INTO jobs (id, model_name, path, digest, parameters, state, submitted, started,"
                " ended, reasons, tenant, makes, fence, memory, least_memory)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO NOTHING RETURNING number",
                row,
            )
            for (number,) in added:
                _add_event(transaction, number, kinds.STATE, {"state": job.state})
                self._begin_to_track(transaction, f"number = {number}")
        found = self.find(job.id)
        assert found is not None
        return found

    def check_queue(self, most: int) -> None:
        """Raises TooManyJobs where `most` are queued now."""
        _check_queue(self.count([QUEUED]), most)

    def _take_over(self, job: Job, events: Sequence[Event]) -> None:
        """As it was in another database."""
        values = {field.name: getattr(job, field.name) for field in fields(job)}
        values |= {name: _text(values[name]) for name in _JSON}
        with self._database.writing() as transaction:
            transaction.execute(
                f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
                " ON CONFLICT DO NOTHING",
                tuple(values.values()),
            )
            for one in events:
                transaction.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (job.number, one.number, one.time, one.kind, _text(one.data)),
                )

    def ids(self) -> frozenset[str]:
        """Of all jobs there are."""
        return frozenset(row[0] for row in self._database.read("SELECT id FROM jobs"))

    def find(self, id: str) -> Job | None:
        """The job with this id."""
        rows = self._database.read("SELECT * FROM jobs WHERE id = ?", (id,))
        return as_job(rows[0]) if rows else None

    def next_queued(self, besides: Sequence[str] = (), unhurt: bool = False) -> Job | None:
        """The job whose turn it is, but for the ids `besides`; where `unhurt` ones are wanted, of those that
        haven't died since their last snapshot. One that is paused has none."""
        id = self.queue.next(besides, unhurt)
        return None if id is None else self.find(id)

    def count(self, states: Sequence[str], tenant: str | None = None) -> int:
        """Jobs in one of `states`, of all or of one tenant."""
        if tenant is None:
            counts = self.counts()
            return sum(counts[state] for state in states)
        return int(self._database.read(*_counted(states, tenant))[0][0])

    def paths_of(self, tenant: str | None = None) -> Sequence[str]:
        """Where prompts were published: all, or those whose last training was one tenant's."""
        if tenant is None:
            rows = self._database.read(_PATHS_OF_ALL)
        else:
            rows = self._database.read(_PATHS_OF_ONE, (tenant, tenant, tenant))
        return [row[0] for row in rows]

    def counts(self) -> Mapping[str, int]:
        """Jobs in each state."""
        rows = self._database.read("SELECT value, number FROM job_counts")
        return {**dict.fromkeys(STATES, 0), **{state: int(number) for state, number in rows}}

    def oldest_queued(self) -> float | None:
        """When the job that waits the longest was submitted (seconds since 1970)."""
        found = self._database.read("SELECT MIN(submitted) FROM jobs WHERE state = ?", (QUEUED,))[0][0]
        return None if found is None else float(found)

    def quietest_running(self) -> float | None:
        """When the running job that has told nothing for the longest told its last (seconds since 1970)."""
        query = (
            "SELECT MIN((SELECT time FROM events WHERE job = jobs.number ORDER BY number DESC LIMIT 1))"
            " FROM jobs WHERE state = ?"
        )
        found = self._database.read(query, (RUNNING,))[0][0]
        return None if found is None else float(found)

    def ended_since(self, time: float) -> Sequence[Job]:
        """The jobs that ended later than `time` (seconds since 1970), in this order."""
        # No other has an end; by this index alone it takes as long among a million.
        query = "SELECT * FROM jobs WHERE ended > ? ORDER BY ended"
        return [as_job(row) for row in self._database.read(query, (time,))]

    def search(
        self,
        states: Sequence[str] = (),
        model_name: str = "",
        since: float = 0.0,
        until: float = 0.0,
        before: int = 0,
        limit: int = 100,
        names: Sequence[str] | None = None,
    ) -> Sequence[Job]:
        """The latest jobs first: in one of `states`, of one name, submitted from `since` up to `until`
        (0: no bound), with numbers below `before` (0: from the last on), of models that one of the globs
        `names` matches (None: of all)."""
        conditions: list[str] = ["TRUE"]
        values: list[Any] = []
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if names is not None:
            condition, globs = self._database.matching("model_name", names)
            conditions.append(condition)
            values += globs
        for condition, value in (
            ("model_name = ?", model_name),
            ("submitted >= ?", since),
            ("submitted < ?", until),
            ("number < ?", before),
        ):
            if value:
                conditions.append(condition)
                values.append(value)
        query = f"SELECT * FROM jobs WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?"
        return [as_job(row) for row in self._database.read(query, (*values, limit))]

    def move(self, id: str, state: str, reasons: Sequence[str] = (), held: Job | None = None) -> bool:
        """Puts a job into `state`; whether it was possible: where a job has ended, it stays.

        QUEUED again keeps the start; a terminal state has an end no earlier than the submission.
        """
        with self._database.writing() as transaction:
            return _move(transaction, id, state, reasons, held)

    def next_run(self, id: str, above: int, state: str, owner: str = "") -> Job | None:
        """A job that is queued and that no server has, now in `state`, had by `owner`, and with the number of
        a new run, which is `above` those that its folder knows. None where it isn't to be had any more:
        another server has it or one with its path, or one with its path that was paused is before it again;
        or where the others hold the owner for dead."""
        now = time.time()
        with self._database.writing() as transaction:
            begun = transaction.execute(
                "UPDATE jobs SET fence = (CASE WHEN fence > ? THEN fence ELSE ? END) + 1, heard = 0,"
                " is_open = 1, state = ?, owner = ?,"
                " started = CASE WHEN ? THEN COALESCE(started, ?) ELSE started END"
                f" WHERE id = ? AND state = ? AND owner = '' AND {IS_FREE}"
                " AND (? = '' OR EXISTS (SELECT 1 FROM servers WHERE servers.id = ?)) RETURNING number",
                (above, above, state, owner, state == RUNNING, now, id, QUEUED, owner, owner),
            )
            for (number,) in begun if state != QUEUED else ():
                _add_event(transaction, number, kinds.STATE, {"state": state, "reasons": []})
        return self.find(id) if begun else None

    def is_held(self, held: Job) -> bool:
        """Whether a job is still in the run that it was found in, and had by who had it."""
        is_held, values = _held(held)
        query = f"SELECT 1 FROM jobs WHERE id = ? {is_held}"
        return bool(self._database.read(query, (held.id, *values)))

    def open_runs(self) -> Collection[tuple[str, int]]:
        """The jobs and numbers of runs whose ends nobody has noted."""
        query = "SELECT id, fence FROM jobs WHERE state IN (?, ?) AND is_open = 1"
        return {(row[0], row[1]) for row in self._database.read(query, (QUEUED, RUNNING))}

    def wish(self, held: Job, state: str) -> None:
        """Whoever has the job is asked to put it into `state`; '' is a wish no longer. CANCELED stays one."""
        is_held, values = _held(held)
        with self._database.writing() as transaction:
            statement = f"UPDATE jobs SET wish = ? WHERE id = ? AND wish != ? {is_held}"
            transaction.execute(statement, (state, held.id, CANCELED, *values))

    def to_clear(self) -> Sequence[str]:
        """The ids of the jobs that have ended and whose folders nobody has cleared."""
        # By an index of these alone.
        rows = self._database.read("SELECT id FROM jobs WHERE to_clear = 1 ORDER BY number")
        return [row[0] for row in rows]

    def set_cleared(self, id: str) -> None:
        """Its folder has no more than what is kept."""
        with self._database.writing() as transaction:
            transaction.execute("UPDATE jobs SET to_clear = 0 WHERE id = ? AND to_clear = 1", (id,))

    def owned_by(self, owner: str) -> Sequence[str]:
        """The ids of the jobs that a server has."""
        return [
            row[0]
            for row in self._database.read("SELECT id FROM jobs WHERE owner = ? AND owner != ''", (owner,))
        ]

    def has_hurt(self, owner: str) -> bool:
        """Whether a server has a job that has died since its last snapshot."""
        query = "SELECT 1 FROM jobs WHERE owner = ? AND owner != '' AND deaths > 0 LIMIT 1"
        return bool(self._database.read(query, (owner,)))

    def wishes(self, owner: str) -> Sequence[Job]:
        """The jobs of `owner` of which something is wished."""
        query = "SELECT * FROM jobs WHERE owner = ? AND owner != '' AND wish != ''"
        return [as_job(row) for row in self._database.read(query, (owner,))]

    def count_death(self, held: Job, reason: str, most: int = 1_000_000) -> int:
        """The process of a job has died without a new snapshot; how often that was so, in a row. Below `most`
        it is queued again, in the same step. 0 where it is another's now."""
        is_held, values = _held(held)
        with self._database.writing() as transaction:
            rows = transaction.execute(
                f"UPDATE jobs SET deaths = deaths + 1, is_open = 0 WHERE id = ? {is_held}"
                " RETURNING number, deaths",
                (held.id, *values),
            )
            for number, _ in rows:
                _add_event(transaction, number, kinds.DEATH, {"text": reason})
            if rows and rows[0][1] < most:
                _move(transaction, held.id, QUEUED, (), held)
        return int(rows[0][1]) if rows else 0

    def forget_deaths(self, held: Job) -> None:
        """The job has got further than ever before."""
        is_held, values = _held(held)
        with self._database.writing() as transaction:
            transaction.execute(
                f"UPDATE jobs SET deaths = 0 WHERE id = ? AND deaths > 0 {is_held}", (held.id, *values)
            )

    def delete_ended_before(self, time: float, limit: int = 200) -> Sequence[str]:
        """Forgets jobs that ended before `time`, with their events; their ids. No more than `limit` at once:
        nobody else writes meanwhile."""
        with self._database.writing() as transaction:
            deleted = transaction.execute(
                "DELETE FROM jobs WHERE number IN"
                " (SELECT number FROM jobs WHERE ended < ? ORDER BY ended LIMIT ?) RETURNING id",
                (time, limit),
            )
        return [row[0] for row in deleted]

    # ---- trackers ----

    def to_track(self, tracker: str) -> Sequence[Job]:
        """The jobs that `tracker` hasn't told the end of."""
        query = "SELECT jobs.* FROM jobs JOIN tracked ON job = number WHERE tracker = ? ORDER BY number"
        return [as_job(row) for row in self._database.read(query, (tracker,))]

    def set_tracked(self, id: str, tracker: str) -> None:
        """All of the job has been told, or nothing more will be."""
        with self._database.writing() as transaction:
            transaction.execute(
                "DELETE FROM tracked WHERE tracker = ? AND job = (SELECT number FROM jobs WHERE id = ?)",
                (tracker, id),
            )

    def _begin_to_track(self, transaction: Transaction, condition: str) -> None:
        for tracker in self._trackers:
            transaction.execute(
                f"INSERT INTO tracked SELECT number, ? FROM jobs WHERE {condition} ON CONFLICT DO NOTHING",
                (tracker,),
            )

    # ---- events ----

    def add_event(
        self, id: str, kind: str, data: Mapping[str, Any], heard: int = 0, held: Job | None = None
    ) -> None:
        """Something that happened to a job. Progress is kept beside the job, too. Where it is a report with a
        number, so many of its run are `heard`."""
        is_held, values = _held(held)
        with self._database.writing() as transaction:
            query = f"SELECT number FROM jobs WHERE id = ? {is_held}"
            for (number,) in transaction.execute(query, (id, *values)):
                _add_event(transaction, number, kind, data)
                if kind == PROGRESS:
                    transaction.execute(
                        "UPDATE jobs SET progress = ? WHERE number = ?", (_text(data), number)
                    )
                if heard:
                    transaction.execute("UPDATE jobs SET heard = ? WHERE number = ?", (heard, number))

    def events(
        self, job: Job, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()
    ) -> Sequence[Event]:
        """The next events of a job behind number `after`, in order; of all kinds or some."""
        condition = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = self._database.read(
            f"SELECT number, time, kind, data FROM events WHERE job = ? AND number > ?{condition}"
            " ORDER BY number LIMIT ?",
            (job.number, after, *kinds, limit),
        )
        return [as_event(row) for row in rows]

    def last_event(self, job: Job, kinds: Sequence[str]) -> Event | None:
        """The last of some kinds."""
        rows = self._database.read(
            "SELECT number, time, kind, data FROM events WHERE job = ? AND kind IN"
            f" ({', '.join('?' * len(kinds))}) ORDER BY number DESC LIMIT 1",
            (job.number, *kinds),
        )
        return as_event(rows[0]) if rows else None

    def published_as(self, job: Job) -> str:
        """The name that it is or was published as; before that, what it will be or begin with."""
        told = self.events(job, kinds=[ARTIFACT]) if job.state in (RUNNING, COMPLETED) else ()
        return str(told[-1].data["model_name"]) if told else job.model_name

    @property
    def changes(self) -> int:
        """Grows with every write of this process."""
        return self._database.changes

    def wait_for_change(self, seen: int, seconds: float) -> int:
        """Until there are other than the `seen` changes, or so long; how many there are now."""
        return self._database.wait_for_change(seen, seconds)


def salvaged(file: Path) -> list[tuple[Job, list[Event]]]:
    """What a damaged database still tells, row by row."""
    found = []
    with state_errors(), closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        jobs = _rows(connection, "SELECT number FROM jobs ORDER BY number")
        for number in range(1, max([row[0] for row in jobs], default=0) + 1):
            for row in _rows(connection, "SELECT * FROM jobs WHERE number = ?", number):
                events = _rows(connection, "SELECT * FROM events WHERE job = ? ORDER BY number", number)
                found.append((as_job(row), [as_event(event) for event in events]))
    return found


def _rows(connection: sqlite3.Connection, query: str, *values: Any) -> list[sqlite3.Row]:
    """The rows up to the first that can't be read."""
    rows: list[sqlite3.Row] = []
    try:
        for row in connection.execute(query, values):
            rows.append(row)
    except sqlite3.DatabaseError:
        pass
    return rows


def _counted(states: Sequence[str], tenant: str) -> tuple[str, Sequence[str]]:
    """Of one tenant's jobs those in one of `states`: a statement, and its values."""
    places = ", ".join("?" * len(states))
    return f"SELECT COUNT(*) FROM jobs WHERE state IN ({places}) AND tenant = ?", (*states, tenant)


def _check_queue(queued: int, most: int) -> None:
    """Raises TooManyJobs."""
    if queued >= most:
        raise TooManyJobs(
            f"{queued} trainings are queued, as many as max_queued allows. Try again when some have ended"
        )


def _move(transaction: Transaction, id: str, state: str, reasons: Sequence[str], held: Job | None) -> bool:
    """See JobStore.move."""
    now, runs, ends = time.time(), state == RUNNING, state in TERMINAL
    is_held, values = _held(held)
    moved = transaction.execute(
        "UPDATE jobs SET state = ?, reasons = ?, to_clear = ?,"
        " started = CASE WHEN ? THEN COALESCE(started, ?) ELSE started END,"
        " ended = CASE WHEN NOT ? THEN NULL WHEN submitted > ? THEN submitted ELSE ? END"
        f" WHERE id = ? AND state NOT IN ({', '.join('?' * len(TERMINAL))}) AND state != ? {is_held}"
        " RETURNING number",
        (state, _text(list(reasons)), int(ends), runs, now, ends, now, now, id, *TERMINAL, state, *values),
    )
    for (number,) in moved:
        _add_event(transaction, number, kinds.STATE, {"state": state, "reasons": list(reasons)})
    if not runs:
        # Also of a job that was queued all along.
        release = "UPDATE jobs SET is_open = 0, owner = '', wish = '' WHERE id = ?"
        transaction.execute(f"{release} {is_held}", (id, *values))
    return bool(moved)


def _add_event(transaction: Transaction, job: int, kind: str, data: Mapping[str, Any]) -> None:
    transaction.execute(
        "INSERT INTO events SELECT ?, COALESCE(MAX(number), 0) + 1, ?, ?, ? FROM events WHERE job = ?",
        (job, time.time(), kind, _text(data), job),
    )


def _held(job: Job | None) -> tuple[str, tuple[Any, ...]]:
    """The condition that a job is as it was found, with its values; none where anybody may note it."""
    return ("AND fence = ? AND owner = ?", (job.fence, job.owner)) if job else ("", ())


def _shared(address: str) -> Database:
    """An extra of the package has it."""
    from caikit_pt.runtime.postgres_database import PostgresDatabase

    return PostgresDatabase(address)


def as_job(row: Row) -> Job:
    """A row of `jobs`, of this schema or an earlier one."""
    # A later release, whose server may be beside this one, may have added columns.
    values = {name: row[name] for name in row.keys() if name in _FIELDS}  # noqa: SIM118
    if "is_open" in values:
        values["is_open"] = bool(values["is_open"])
    for name in _JSON.intersection(values):
        values[name] = json.loads(values[name])
    return Job(**values)


def as_event(row: Row) -> Event:
    """A row of `events`."""
    return Event(row["number"], row["time"], row["kind"], json.loads(row["data"]))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
