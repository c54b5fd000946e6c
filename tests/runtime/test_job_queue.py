"""Turns, by indexes, are those that a plain look at all jobs gives."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from caikit_pt.runtime.job import COMPLETED, PAUSED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore

from .jobs import job


def turns(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that wait, in the order of their turns."""
    before = Counter(one.tenant for one in jobs if one.state == RUNNING)
    began = defaultdict[str, float](float)
    for one in jobs:
        began[one.tenant] = max(began[one.tenant], one.started or 0.0)
    keys = {}
    for one in sorted(jobs, key=lambda one: one.number):
        if one.state == QUEUED:
            keys[one.id] = (before[one.tenant], began[one.tenant], one.number)
            before[one.tenant] += 1
    return sorted((one for one in jobs if one.id in keys), key=lambda one: keys[one.id])


def following(jobs: Sequence[Job], besides: Sequence[str], unhurt: bool) -> str | None:
    """The id of the job whose turn it is."""
    begun = {one.id for one in jobs if one.state == QUEUED and (one.owner or one.id in besides)}
    taken = {one.path for one in jobs if one.state == RUNNING or one.id in begun}
    ready = set()
    for one in sorted(jobs, key=lambda one: one.number):
        if one.state == QUEUED:
            if one.id not in begun and one.path not in taken and not (unhurt and one.deaths):
                ready.add(one.id)
            taken.add(one.path)
    return next((one.id for one in turns(jobs) if one.id in ready), None)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_turns_are_those_of_a_plain_look(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, seed: int
) -> None:
    address = request.getfixturevalue("postgres").database() if kind == "postgresql" else ""
    store, rng = JobStore(tmp_path, address=address), random.Random(seed)
    server = store.servers.join("one")
    tenants, paths = rng.randint(1, 5), rng.randint(1, 30)
    for number in range(40):
        added = replace(job(str(number)), path=f"/{rng.randrange(paths)}", tenant=str(rng.randrange(tenants)))
        store.add(added)
        fate = rng.random()
        if fate < 0.15:
            store.next_run(added.id, 0, rng.choice([RUNNING, QUEUED]), server)
        elif fate < 0.3:
            store.move(added.id, RUNNING)
            store.move(added.id, rng.choice([COMPLETED, PAUSED, QUEUED]))
        elif fate < 0.6:
            store.count_death(added, "gone")
    for _ in range(20):
        jobs = store.search(limit=100)
        besides = rng.sample([one.id for one in jobs if one.state == QUEUED], rng.randint(0, 1))
        for unhurt in (False, True):
            assert store.queue.next(besides, unhurt) == following(jobs, besides, unhurt)
        expected = {one.id: place for place, one in enumerate(turns(jobs))}
        page = rng.sample(list(jobs), 10)
        assert store.queue.before(page) == {one.id: expected[one.id] for one in page if one.id in expected}
        assert store.queue.before(jobs) == expected
        found = store.next_queued()
        if found is None:
            break
        store.move(found.id, RUNNING)
        if rng.random() < 0.5:
            store.move(found.id, COMPLETED)
    store.close()
