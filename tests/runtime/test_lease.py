"""Who may have jobs: whoever shows that it lives, and, of what the dead had, one heir."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.job import CANCELED, COMPLETED, PAUSED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.lease import Lease
from caikit_pt.runtime.state_id import state_id

from .jobs import job
from .postgres import Postgres
from .servers import wait_for


class Heir:
    """Notes what it is told, and puts back what it inherits."""

    def __init__(self, store: JobStore) -> None:
        self.store, self.lease = store, Lease(store, "one")
        self.inherited, self.wishes, self.gave_up = list[str](), list[str](), 0

    def give_up(self) -> None:
        self.gave_up += 1

    def inherit(self) -> None:
        self.inherited += [id for id in self.store.owned_by(self.lease.id) if id not in self.inherited]

    def grant(self, wishes: Sequence[Job]) -> None:
        self.wishes += [f"{one.id} {one.wish}" for one in wishes]

    def start(self) -> Heir:
        self.lease.start(self)
        return self


Made = Callable[[], Heir]


@pytest.fixture
def heirs(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Servers over one database, whose beats are fast."""
    for name, seconds in (("BETWEEN_BEATS", 0.05), ("TO_GIVE_UP", 0.5), ("BETWEEN_WISHES", 0.01)):
        monkeypatch.setattr(f"caikit_pt.runtime.lease._SECONDS_{name}", seconds)
    address, made = postgres.database(), list[Heir]()

    def make() -> Heir:
        made.append(Heir(JobStore(tmp_path, address=address)))
        return made[-1]

    yield make
    for one in made:
        one.lease.stop()
        one.store.close()


def begun(one: Heir, id: str) -> Job:
    """A job that a server has."""
    one.store.add(job(id))
    found = one.store.next_run(id, 0, RUNNING, one.lease.id)
    assert found is not None
    return found


def test_what_the_dead_had_is_had_by_one(heirs: Made) -> None:
    dead = heirs()
    held = [begun(dead, f"job-{number}") for number in range(5)]
    living = [heirs().start() for _ in range(3)]
    wait_for(lambda: any(one.inherited for one in living))
    time.sleep(0.5)
    assert sorted(id for one in living for id in one.inherited) == [one.id for one in held]
    # And whatever it still says counts for nothing.
    for one in held:
        assert not dead.store.move(one.id, COMPLETED, (), one)
        dead.store.add_event(one.id, "warning", {"text": "late"}, held=one)
        assert dead.store.count_death(one, "late") == 0
        assert not dead.store.is_held(one)
        assert [event.kind for event in dead.store.events(one)] == ["state", "state"]
    assert dead.store.next_run("job-0", 0, RUNNING, dead.lease.id) is None
    assert not dead.store.servers.beat(dead.lease.id)


def test_a_run_is_lost_whose_server_died_and_not_whose_server_left(
    heirs: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, leaving, heir = heirs(), heirs(), heirs()
    lost, left = begun(dead, "lost"), begun(leaving, "left")
    heir.store.add(job("asked"))
    asked = heir.store.next_run("asked", 0, QUEUED, dead.lease.id)
    assert asked is not None
    leaving.lease.stop()
    heir.start()
    wait_for(lambda: sorted(heir.inherited) == ["asked", "left", "lost"])
    assert [heir.lease.is_lost(one) for one in (lost, left, asked)] == [True, False, False]
    # Nor is the next run of the same job.
    found = heir.store.find("lost")
    assert found is not None
    heir.store.move("lost", QUEUED, (), found)
    again = heir.store.next_run("lost", 0, RUNNING, heir.lease.id)
    assert again is not None
    assert not heir.lease.is_lost(again)


def test_who_lives_keeps_what_it_has(heirs: Made) -> None:
    one, other = heirs().start(), heirs().start()
    held = begun(one, "mine")
    time.sleep(1.5)
    assert (one.gave_up, other.inherited, one.store.is_held(held)) == (0, [], True)
    assert [one.lease.is_first, other.lease.is_first] == [True, False]


def test_who_leaves_is_inherited_from_at_once(heirs: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caikit_pt.runtime.lease._LOOKS", 1_000_000)
    one, other = heirs().start(), heirs().start()
    begun(one, "left")
    one.lease.stop()
    wait_for(lambda: other.inherited == ["left"])
    wait_for(lambda: other.lease.is_first)


def test_who_was_taken_for_dead_comes_again_as_another(heirs: Made) -> None:
    """It stood still: in its own eyes no time has gone by."""
    one, other = heirs(), heirs().start()
    held, name = begun(one, "mine"), one.lease.id
    wait_for(lambda: other.inherited == ["mine"])
    one.start()
    wait_for(lambda: one.lease.is_held and one.lease.id != name)
    assert one.gave_up == 1
    assert not one.store.is_held(held)
    begun(one, "later")
    time.sleep(0.5)
    assert other.inherited == ["mine"]


def test_who_cannot_reach_the_store_gives_up_and_has_the_rest_again(
    heirs: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = heirs().start()
    begun(one, "mine")
    with monkeypatch.context() as cut:

        def away(id: str) -> bool:
            raise StateUnavailable("cut off")

        cut.setattr(one.store.servers, "beat", away)
        wait_for(lambda: not one.lease.is_held)
        assert one.gave_up == 1
    # Nobody else was there to take it.
    wait_for(lambda: one.lease.is_held)
    wait_for(lambda: one.store.owned_by(one.lease.id) == ["mine"])


def test_wishes_come_to_who_has_the_job(heirs: Made) -> None:
    one, other = heirs().start(), heirs().start()
    held = begun(one, "mine")
    other.store.wish(held, PAUSED)
    wait_for(lambda: "mine PAUSED" in one.wishes)
    assert other.wishes == []
    assert one.store.move("mine", QUEUED, (), held)
    found = one.store.find("mine")
    assert found is not None
    assert (found.owner, found.wish, found.is_open) == ("", "", False)


def test_a_server_alone_has_what_an_earlier_one_left(tmp_path: Path) -> None:
    earlier = Heir(JobStore(tmp_path)).start()
    lost = begun(earlier, "mine")
    later = Heir(JobStore(tmp_path)).start()
    assert later.inherited == ["mine"]
    assert later.lease.is_lost(lost)
    later.lease.stop()
    last = Heir(JobStore(tmp_path)).start()
    assert last.inherited == ["mine"]
    assert not last.lease.is_lost(lost)
    assert later.lease.is_first
    assert len(later.store.servers.all()) == 1


def test_who_has_left_is_no_heir(heirs: Made) -> None:
    """It has looked, and leaves before it takes: what is left would be nobody's."""
    dead, leaving, other = heirs(), heirs(), heirs()
    begun(dead, "mine")
    (seen, *_) = dead.store.servers.all()
    leaving.store.servers.leave(leaving.lease.id)
    assert not leaving.store.servers.bury(seen, leaving.lease.id)
    assert dead.store.owned_by(dead.lease.id) == ["mine"]
    assert other.store.servers.bury(seen, other.lease.id)
    assert other.store.owned_by(other.lease.id) == ["mine"]


def test_what_nobody_has_is_the_firsts(heirs: Made) -> None:
    one = heirs()
    one.store.add(job("stray"))
    with one.store._database.writing() as transaction:
        transaction.execute("UPDATE jobs SET owner = 'nobody', state = 'RUNNING'")
    one.start()
    wait_for(lambda: one.inherited == ["stray"])


def test_no_exception_ends_the_beats(heirs: Made) -> None:
    one, errors = heirs(), [RuntimeError("can't start new thread"), StateUnavailable("away")]

    def grant(wishes: Sequence[Job]) -> None:
        if errors:
            raise errors.pop()
        one.wishes += [f"{each.id} {each.wish}" for each in wishes]

    one.grant = grant  # type: ignore[method-assign]
    held = begun(one.start(), "mine")
    one.store.wish(held, PAUSED)
    wait_for(lambda: "mine PAUSED" in one.wishes)


def test_a_wish_to_cancel_stays(heirs: Made) -> None:
    one = heirs()
    held = begun(one, "mine")
    for state in (PAUSED, CANCELED, PAUSED, ""):
        one.store.wish(held, state)
    assert [each.wish for each in one.store.wishes(one.lease.id)] == [CANCELED]


def test_a_database_is_of_one_state_directory(tmp_path: Path, postgres: Postgres) -> None:
    store = JobStore(tmp_path, address=postgres.database())
    assert [store.belongs_to(id) for id in ("a", "b", "a")] == [True, False, True]
    store.close()


def test_those_that_come_at_once_get_one_id(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: state_id(tmp_path), range(32)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cluster_id"]
