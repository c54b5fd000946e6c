"""The order in which jobs have their turns: tenants take turns, and the jobs of one are in the order of
submission.

Jobs with one path run one after the other, so that what was submitted last is what stays published. Whatever
is asked is found by indexes: there may be ten thousand jobs that wait, and a million that have ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from caikit_pt.runtime.database import Database
from caikit_pt.runtime.job import QUEUED, Job

_OF_TENANT = "state = 'QUEUED' AND tenant = ?"
# Each tenant by one step down an index.
_TENANTS = """
    WITH RECURSIVE waiting (tenant) AS (
        SELECT MIN(tenant) FROM jobs WHERE state = 'QUEUED'
        UNION ALL
        SELECT (SELECT MIN(tenant) FROM jobs WHERE state = 'QUEUED' AND tenant > waiting.tenant)
        FROM waiting WHERE tenant IS NOT NULL
    )
    SELECT tenant,
        (SELECT COUNT(*) FROM jobs WHERE state = 'RUNNING' AND tenant = waiting.tenant),
        (SELECT MAX(started) FROM jobs WHERE tenant = waiting.tenant)
    FROM waiting WHERE tenant IS NOT NULL
"""
# That no other job with its path is under way or before it. What is under way may be queued, where a cluster
# hasn't begun yet.
IS_FREE = """
    NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.path = jobs.path AND other.state = 'RUNNING')
    AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.path = jobs.path AND other.state = 'QUEUED'
        AND (other.number < jobs.number OR other.owner != ''))
"""


@dataclass(frozen=True, slots=True, order=True)
class _Turn:
    """The least has its turn first: whose tenant has fewest running or before it, of these whose tenant has
    waited longest since one of his began."""

    before: int
    began: float
    number: int


class _Tenant:
    """One who has jobs that wait; `running` of his are under way, and the last of all began at `began`."""

    def __init__(self, database: Database, name: str, running: int, began: float) -> None:
        self._database, self.name, self.running, self.began = database, name, running, began

    def turn(self, number: int, rank: int) -> _Turn:
        """Of his job with this number, with `rank` of his jobs before it."""
        return _Turn(self.running + rank, self.began, number)

    def rank(self, number: int) -> int:
        """How many of his jobs that wait are before one."""
        query = f"SELECT COUNT(*) FROM jobs WHERE {_OF_TENANT} AND number < ?"
        return int(self._database.read(query, (self.name, number))[0][0])

    def ranks(self, numbers: Iterable[int]) -> Mapping[int, int]:
        """Of some of his jobs that wait."""
        wanted = set(numbers)
        first, last = min(wanted), max(wanted)
        query = f"SELECT number FROM jobs WHERE {_OF_TENANT} AND number BETWEEN ? AND ? ORDER BY number"
        between = self._database.read(query, (self.name, first, last))
        start = self.rank(first)
        return {row[0]: start + place for place, row in enumerate(between) if row[0] in wanted}

    @cached_property
    def waiting(self) -> int:
        """How many of his jobs wait."""
        return int(self._database.read(f"SELECT COUNT(*) FROM jobs WHERE {_OF_TENANT}", (self.name,))[0][0])

    def before(self, turn: _Turn) -> int:
        """How many of his jobs have their turns before another tenant's."""
        rank = turn.before - self.running
        if rank < 0 or rank >= self.waiting:
            return max(0, min(rank, self.waiting))
        if self.began != turn.began:
            return rank + int(self.began < turn.began)
        query = f"SELECT number FROM jobs WHERE {_OF_TENANT} ORDER BY number LIMIT 1 OFFSET ?"
        (found,) = self._database.read(query, (self.name, rank))
        return rank + int(found[0] < turn.number)

    def first_free(
        self, besides: Sequence[str], taken: Sequence[str], unhurt: bool
    ) -> tuple[int, str] | None:
        """His first job that can begin, but for the ids `besides` and the paths `taken`; only an `unhurt`
        one, where that is wanted. Its number and id."""
        query = (
            f"SELECT number, id FROM jobs WHERE {_OF_TENANT} AND owner = ''"
            f" AND {_not_in('id', besides)} AND {_not_in('path', taken)} AND {IS_FREE}"
            f" AND {'deaths = 0' if unhurt else 'TRUE'}"
            " ORDER BY number LIMIT 1"
        )
        rows = self._database.read(query, (self.name, *besides, *taken))
        return (rows[0][0], rows[0][1]) if rows else None


def _not_in(column: str, values: Sequence[str]) -> str:
    return f"{column} NOT IN ({', '.join('?' * len(values))})" if values else "TRUE"


class JobQueue:
    """Of the jobs in `database`. Every method raises StateUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next(self, besides: Sequence[str] = (), unhurt: bool = False) -> str | None:
        """The id of the job whose turn it is, but for the ids `besides`, which are under way; of those that
        haven't died since their last snapshot, where only an `unhurt` one is wanted. None where none can
        begin."""
        taken = self._paths(besides)
        candidates = list[tuple[_Turn, int, _Tenant, str]]()
        for place, tenant in enumerate(self._tenants()):
            # No job of his has an earlier turn.
            heapq.heappush(candidates, (tenant.turn(0, 0), place, tenant, ""))
        while candidates:
            turn, place, tenant, id = heapq.heappop(candidates)
            if id:
                return id
            if found := tenant.first_free(besides, taken, unhurt):
                number, id = found
                turn = tenant.turn(number, tenant.rank(number))
                heapq.heappush(candidates, (turn, place, tenant, id))
        return None

    def before(self, jobs: Iterable[Job]) -> Mapping[str, int]:
        """Of those of `jobs` that wait, by their ids: how many have their turns before them."""
        waiting = [job for job in jobs if job.state == QUEUED]
        if not waiting:
            return {}
        tenants = {tenant.name: tenant for tenant in self._tenants()}
        ranks = {
            tenant.name: tenant.ranks(numbers)
            for tenant in tenants.values()
            if (numbers := [job.number for job in waiting if job.tenant == tenant.name])
        }
        told = {}
        for job in waiting:
            # It may have begun meanwhile.
            if (rank := ranks.get(job.tenant, {}).get(job.number)) is not None:
                own = tenants[job.tenant]
                turn = own.turn(job.number, rank)
                others = (tenant.before(turn) for tenant in tenants.values() if tenant is not own)
                told[job.id] = rank + sum(others)
        return told

    def _paths(self, ids: Sequence[str]) -> Sequence[str]:
        query = f"SELECT path FROM jobs WHERE id IN ({', '.join('?' * len(ids))}) AND state = 'QUEUED'"
        return [row[0] for row in self._database.read(query, ids)] if ids else []

    def _tenants(self) -> Iterator[_Tenant]:
        """Those who have jobs that wait."""
        for name, running, began in self._database.read(_TENANTS):
            yield _Tenant(self._database, name, int(running), float(began or 0.0))
