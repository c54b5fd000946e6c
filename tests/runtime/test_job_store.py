"""The database of jobs: what was accepted stays, whatever happens to it."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from caikit_pt import settings
from caikit_pt.errors import QuotaExceeded, StateUnavailable, TooManyJobs
from caikit_pt.runtime import job_store, sqlite_database
from caikit_pt.runtime.job import (
    CANCELED,
    COMPLETED,
    DEATH,
    ERRORED,
    PAUSED,
    PROGRESS,
    QUEUED,
    RUNNING,
    STATE,
    STATES,
    TERMINAL,
    WARNING,
    Job,
)
from caikit_pt.runtime.job_store import DATABASE, JobStore
from caikit_pt.runtime.sqlite_database import SqliteDatabase
from caikit_pt.runtime.training_quotas import TrainingQuotas


def job(id: str, submitted: float = 1000.0, model_name: str = "model", path: str = "") -> Job:
    return Job(
        id=id,
        model_name=model_name,
        path=path or f"/models/{id}",
        digest="of " + id,
        parameters={"base_model": "tiny-t5", "origins": {"base_model": "request"}},
        submitted=submitted,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    """Of an empty PostgreSQL database, or none."""
    return str(request.getfixturevalue("postgres").database()) if request.param == "postgresql" else ""


@pytest.fixture
def store(tmp_path: Path, address: str) -> Iterator[JobStore]:
    store = JobStore(tmp_path, address=address)
    yield store
    store.close()


def test_a_job_is_there_for_whoever_opens_the_database_next(
    store: JobStore, tmp_path: Path, address: str
) -> None:
    added = store.add(job("one"))
    assert (added.number, added.state, added.parameters["base_model"]) == (1, QUEUED, "tiny-t5")
    again = JobStore(tmp_path, address=address)
    assert again.find("one") == added
    again.close()
    assert store.find("other") is None


def test_the_same_id_is_the_same_job(store: JobStore) -> None:
    first = store.add(job("one"))
    store.move("one", RUNNING)
    again = store.add(job("one", submitted=9000.0))
    assert (again.number, again.submitted, again.state) == (first.number, 1000.0, RUNNING)
    assert store.count([RUNNING]) == 1


def test_first_in_first_out(store: JobStore) -> None:
    for id in ("b", "a", "c"):
        store.add(job(id))
    first = store.next_queued()
    assert first is not None
    assert first.id == "b"
    behind = store.next_queued(besides=["b"])
    assert behind is not None
    assert behind.id == "a"
    last = store.find("c")
    assert last is not None
    assert store.queue.before([last]) == {last.id: 2}
    for id in ("a", "b", "c"):
        store.move(id, RUNNING)
    assert store.next_queued() is None


def test_one_after_the_other_where_they_publish_the_same(store: JobStore) -> None:
    for id, path in (("a", "/one"), ("b", "/one"), ("c", "/two")):
        store.add(job(id, path=path))
    store.move("a", RUNNING)
    assert (store.next_queued() or job("")).id == "c"
    # It is queued again, and not yet to be started: what comes behind it still has to wait.
    store.move("a", QUEUED)
    assert (store.next_queued(besides=["a"]) or job("")).id == "c"
    assert (store.next_queued() or job("")).id == "a"
    store.move("a", RUNNING)
    store.move("a", COMPLETED)
    assert (store.next_queued() or job("")).id == "b"


@pytest.mark.parametrize("end", TERMINAL)
def test_an_end_is_an_end(store: JobStore, end: str) -> None:
    store.add(job("one"))
    assert store.move("one", RUNNING)
    assert store.move("one", end, ["because"])
    for state in (QUEUED, RUNNING, *TERMINAL):
        assert not store.move("one", state)
    found = store.find("one")
    assert found is not None
    assert (found.state, found.reasons) == (end, ["because"])
    assert found.ended is not None
    assert [event.data["state"] for event in store.events(found, kinds=[STATE])] == [QUEUED, RUNNING, end]


def test_only_one_ends_a_job_where_many_want_to(store: JobStore) -> None:
    store.add(job("one"))
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda number: store.move("one", TERMINAL[number % 3]), range(24)))
    assert moved.count(True) == 1


def test_reasons_of_any_length(store: JobStore) -> None:
    store.add(job("one"))
    reasons = ["ü" * 100_000, "x" * 1_000_000]
    store.move("one", ERRORED, reasons)
    found = store.find("one")
    assert found is not None
    assert found.reasons == reasons


def test_a_clock_that_jumps_back(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(job("one", submitted=5000.0))
    monkeypatch.setattr("time.time", lambda: 10.0)
    store.move("one", RUNNING)
    store.move("one", COMPLETED)
    found = store.find("one")
    assert found is not None
    assert found.ended == 5000.0
    assert [event.number for event in store.events(found)] == [1, 2, 3]


def test_deaths_are_counted_until_there_is_progress(store: JobStore) -> None:
    added = store.add(job("one"))
    assert [store.count_death(added, "gone") for _ in range(3)] == [1, 2, 3]
    store.forget_deaths(added)
    assert store.count_death(added, "gone again") == 1
    texts = [event.data["text"] for event in store.events(added, kinds=[DEATH])]
    assert texts == ["gone", "gone", "gone", "gone again"]


def test_events_can_be_read_from_anywhere(store: JobStore) -> None:
    added = store.add(job("one"))
    for step in range(5):
        store.add_event("one", PROGRESS, {"step": step})
    store.add_event("one", WARNING, {"text": "hm"})
    store.add_event("unknown", WARNING, {"text": "nobody's"})
    assert [event.number for event in store.events(added, after=4)] == [5, 6, 7]
    assert [event.data["step"] for event in store.events(added, after=2, limit=2)] == [1, 2]
    assert [event.kind for event in store.events(added, kinds=[WARNING])] == [WARNING]
    found = store.find("one")
    assert found is not None
    assert found.progress == {"step": 4}


def test_a_search(store: JobStore) -> None:
    for number in range(6):
        store.add(job(str(number), submitted=100.0 * number, model_name="ab"[number % 2]))
    store.move("1", RUNNING)
    store.move("3", CANCELED)

    def ids(**asked: object) -> list[str]:
        return [found.id for found in store.search(**asked)]  # type: ignore[arg-type]

    assert ids() == ["5", "4", "3", "2", "1", "0"]
    assert ids(states=[RUNNING, CANCELED]) == ["3", "1"]
    assert ids(model_name="a") == ["4", "2", "0"]
    assert ids(since=200.0, until=400.0) == ["3", "2"]
    assert ids(limit=2) == ["5", "4"]
    assert ids(before=5, limit=2) == ["3", "2"]


def test_whoever_waits_is_told(store: JobStore) -> None:
    store.add(job("one"))
    seen = store.changes
    later = threading.Timer(0.1, lambda: store.move("one", RUNNING))
    later.start()
    began = time.monotonic()
    assert store.wait_for_change(seen, 5) > seen
    assert time.monotonic() - began < 2
    later.join()
    # Of what is heard of others, there may be one more.
    time.sleep(0.2)
    assert store.wait_for_change(store.changes, 0.01) == store.changes


def test_what_is_old_is_forgotten_on_request(store: JobStore) -> None:
    for id in ("one", "two", "three"):
        store.add(job(id, submitted=0.0))
    for id in ("one", "two"):
        store.move(id, COMPLETED)
    assert store.delete_ended_before(1.0) == []
    assert sorted(store.delete_ended_before(time.time() + 1)) == ["one", "two"]
    assert [found.id for found in store.search()] == ["three"]


# ---- what happens to files ----


def test_an_earlier_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as old:
        old.executescript(str(job_store._MIGRATIONS[0]))
        old.execute(
            "INSERT INTO jobs (id, model_name, path, digest, parameters, state, submitted)"
            " VALUES ('old', 'm', '/m', 'd', '{\"base_model\": \"b\"}', 'RUNNING', 12.5)"
        )
        old.execute(
            "INSERT INTO jobs (id, model_name, path, digest, parameters, state, submitted, ended)"
            " VALUES ('ended', 'm', '/m', 'd', '{}', 'COMPLETED', 12.5, 13.5)"
        )
        old.execute("PRAGMA user_version = 1")
    old.close()
    store = JobStore(tmp_path)
    found = store.find("old")
    assert found is not None
    assert (found.state, found.submitted, found.progress) == (RUNNING, 12.5, {})
    store.add_event("old", PROGRESS, {"step": 1})
    assert len(store.events(found)) == 1
    # What an earlier release may have left of those that ended last is looked for.
    assert store.to_clear() == ["ended"]
    assert {state for state, number in store.counts().items() if number} == {RUNNING, COMPLETED}


def test_a_later_schema_is_left_alone(tmp_path: Path) -> None:
    JobStore(tmp_path).add(job("one"))
    with sqlite3.connect(tmp_path / DATABASE) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StateUnavailable, match="schema 99, from a later release"):
        JobStore(tmp_path)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_locked_database_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database, "_LOCK_SECONDS", 0.3)
    store = JobStore(tmp_path)
    store.add(job("one"))
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailable, match="locked"):
        store.add(job("two"))
    assert store.find("one") is not None
    other.execute("ROLLBACK")
    other.close()
    store.add(job("two"))
    assert store.count([QUEUED]) == 2


@pytest.mark.parametrize("page", ["last", "first"])
def test_a_damaged_database_gives_what_it_still_has(tmp_path: Path, page: str) -> None:
    """The last page is some event's. Without the first there is nothing; job_folder.py has it all again."""
    store = JobStore(tmp_path)
    for number in range(20):
        store.add(job(f"job-{number}"))
        store.move(f"job-{number}", RUNNING)
    for step in range(300):
        store.add_event("job-7", PROGRESS, {"step": step, "points": [[step, 0.5]]})
    assert isinstance(store._database, SqliteDatabase)
    store._database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database._connection.close()
    file = tmp_path / DATABASE
    content = bytearray(file.read_bytes())
    where = len(content) - 4096 if page == "last" else 0
    content[where : where + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    again = JobStore(tmp_path)
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    if page == "last":
        assert {found.id for found in again.search(limit=100)} == {f"job-{number}" for number in range(20)}
        assert all(found.state == RUNNING for found in again.search(limit=100))
    again.add(job("new"))
    assert again.find("new") is not None


def test_many_threads_at_once(store: JobStore) -> None:
    def work(number: int) -> None:
        store.add(job(str(number)))
        store.move(str(number), RUNNING)
        for step in range(10):
            store.add_event(str(number), PROGRESS, {"step": step})
        store.move(str(number), COMPLETED)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert store.count([COMPLETED]) == 24
    for found in store.search(limit=100):
        assert [event.number for event in store.events(found)] == list(range(1, 14))


def test_tenants_take_turns(store: JobStore) -> None:
    """A thousand trainings of one hold up nobody's first."""
    for number in range(1000):
        store.add(replace(job(f"many-{number}", path=f"/many/{number}"), tenant="ada"))
    for number in range(3):
        store.add(replace(job(f"few-{number}", path=f"/few/{number}"), tenant="bob"))
    began = []
    for _ in range(6):
        found = store.next_queued()
        assert found is not None
        assert store.queue.before([found]) == {found.id: 0}
        began.append(found.id)
        store.move(found.id, RUNNING)
        store.move(found.id, COMPLETED)
    assert began == ["many-0", "few-0", "many-1", "few-1", "many-2", "few-2"]
    found = store.find("many-999")
    assert found is not None
    assert store.queue.before([found]) == {found.id: 996}


def test_who_has_fewer_running_is_next(store: JobStore) -> None:
    for number in range(3):
        store.add(replace(job(f"ada-{number}", path=f"/ada/{number}"), tenant="ada"))
        store.move(f"ada-{number}", RUNNING)
    store.add(replace(job("ada-3", path="/ada/3"), tenant="ada"))
    store.add(replace(job("bob-0", path="/bob/0"), tenant="bob"))
    found = store.next_queued()
    assert found is not None
    assert found.id == "bob-0"
    behind = store.find("ada-3")
    assert behind is not None
    assert store.queue.before([behind]) == {behind.id: 1}


def test_one_path_is_published_in_order_whoever_asks(store: JobStore) -> None:
    store.add(replace(job("first", path="/same"), tenant="ada"))
    store.add(replace(job("second", path="/same"), tenant="bob"))
    store.add(replace(job("third", path="/other"), tenant="ada"))
    for expected in ("first", "third"):
        found = store.next_queued()
        assert found is not None
        assert found.id == expected
        store.move(found.id, RUNNING)
    assert store.next_queued() is None


def test_what_a_tenant_has(store: JobStore) -> None:
    for id, tenant, path in (("a", "ada", "/x"), ("b", "bob", "/x"), ("c", "ada", "/y"), ("d", "ada", "/z")):
        store.add(replace(job(id, path=path), tenant=tenant))
        if id != "d":
            store.move(id, COMPLETED)
    assert (store.count([QUEUED]), store.count([QUEUED], "ada"), store.count([QUEUED], "bob")) == (1, 1, 0)
    # Whose training was the last has it.
    assert (store.paths_of("ada"), store.paths_of("bob"), sorted(store.paths_of())) == (
        ["/y"],
        ["/x"],
        ["/x", "/y"],
    )


def published(jobs: Sequence[Job]) -> dict[str, str]:
    """Where prompts were published, and whose training was the last of each."""
    done = sorted((one for one in jobs if one.state == COMPLETED), key=lambda one: one.number)
    return {one.path: one.tenant for one in done}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_counted_and_walked_through_is_what_a_plain_look_finds(store: JobStore, seed: int) -> None:
    """Also of what other releases write, and where a transaction fails."""
    rng = random.Random(seed)
    server = store.servers.join("one")
    paths, tenants = [f"/{'ab-Ü/'[place % 5]}{place}" for place in range(8)], ["", "ada", "bob"]
    for number in range(60):
        one = replace(job(str(number), path=rng.choice(paths)), tenant=rng.choice(tenants))
        store.add(one)
        store.add(one)
        fate = rng.random()
        if fate < 0.2:
            store.next_run(one.id, 0, rng.choice([RUNNING, QUEUED]), server)
        elif fate < 0.9:
            store.move(one.id, RUNNING)
            store.move(one.id, rng.choice([COMPLETED, COMPLETED, ERRORED, PAUSED, QUEUED]))
        if rng.random() < 0.1:
            store.count_death(store.find(one.id) or one, "gone")
        if rng.random() < 0.1:
            store.delete_ended_before(time.time() + 1, limit=1)
        if rng.random() < 0.1:
            _undone(store)
        if rng.random() < 0.1:
            with store._database.writing() as transaction:
                transaction.execute("UPDATE jobs SET state = 'CANCELED' WHERE number % 7 = 0")
        jobs = store.search(limit=100)
        assert store.counts() == {state: sum(one.state == state for one in jobs) for state in STATES}
        assert store.count([QUEUED, PAUSED]) == sum(one.state in (QUEUED, PAUSED) for one in jobs)
        assert sorted(store.paths_of()) == sorted(published(jobs))
        for tenant in tenants:
            own = [path for path, whose in published(jobs).items() if whose == tenant]
            assert sorted(store.paths_of(tenant)) == sorted(own)


def _undone(store: JobStore) -> None:
    with suppress(ZeroDivisionError), store._database.writing() as transaction:
        transaction.execute("UPDATE jobs SET state = 'CANCELED'")
        transaction.execute("DELETE FROM jobs WHERE number > 3")
        raise ZeroDivisionError


def test_neither_costs_more_beside_many_that_have_ended(tmp_path: Path) -> None:
    """In steps of SQLite's machine. Both were in proportion to them."""
    steps = dict[int, list[int]]()
    for past in (50, 1000):
        store = JobStore(tmp_path / str(past))
        for number in range(20):
            store.add(replace(job(str(number), path=f"/{number % 5}"), tenant="ada"))
            store.move(str(number), COMPLETED)
        with store._database.writing() as transaction:
            names = "model_name, path, digest, parameters, state, submitted, ended, tenant"
            transaction.execute(
                f"INSERT INTO jobs (id, {names}) WITH RECURSIVE more (n) AS"
                f" (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < {past})"
                f" SELECT 'past-' || n || '-' || id, {names} FROM more, jobs"
            )
        assert store.count([COMPLETED]) == 20 + 20 * past
        looks = (store.counts, store.paths_of, partial(store.paths_of, "ada"))
        steps[past] = [_steps(store, look) for look in looks]
    for few, many in zip(steps[50], steps[1000], strict=True):
        assert 0 < many < 2 * few


def _steps(store: JobStore, look: Callable[[], object]) -> int:
    assert isinstance(store._database, SqliteDatabase)
    taken: list[None] = []
    store._database._connection.set_progress_handler(lambda: taken.append(None), 1)
    look()
    store._database._connection.set_progress_handler(None, 1)
    return len(taken)


def test_no_more_are_queued_than_may_be_whoever_adds_them(
    store: JobStore, tmp_path: Path, address: str
) -> None:
    """Two servers that both found room took one more than there was."""
    stores = [store, JobStore(tmp_path, address=address)]
    held = store.next_run(store.add(job("runs")).id, 0, RUNNING)
    assert held is not None

    def add(number: int) -> bool:
        try:
            stores[number % 2].add(job(str(number)), most=5)
        except TooManyJobs:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, range(40)))
    assert (sum(added), store.count([QUEUED])) == (5, 5)
    # Who is there already is no one more.
    first = str(added.index(True))
    assert stores[1].add(job(first), most=5) == store.find(first)
    store.move(first, CANCELED)
    assert add(50)
    with pytest.raises(TooManyJobs, match="5 trainings are queued, as many as max_queued"):
        store.add(job("51"), most=5)
    stores[1].close()


def test_a_tenant_has_no_more_than_may_wait_whoever_adds_them(
    store: JobStore, tmp_path: Path, address: str
) -> None:
    stores = [store, JobStore(tmp_path, address=address)]
    store.add(replace(job("other"), tenant="b"))
    quotas = TrainingQuotas(settings.typed({"quotas": {"each": {"queued_trainings": 3}}}).quotas, store)

    def add(number: int) -> bool:
        one = replace(job(str(number)), tenant="a")
        try:
            stores[number % 2].add(one, 100, quotas.check_waiting)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, range(20)))
    assert (sum(added), store.count([QUEUED], "a"), store.count([QUEUED])) == (3, 3, 4)
    first = added.index(True)
    assert add(first)
    store.move(str(first), PAUSED)
    with pytest.raises(QuotaExceeded, match="3 of your trainings are queued or paused"):
        store.add(replace(job("50"), tenant="a"), 100, quotas.check_waiting)
    stores[1].close()


def test_a_search_by_globs_has_whole_pages(store: JobStore) -> None:
    for number in range(20):
        store.add(job(f"{number}", model_name="ada-x" if number % 4 == 0 else "bob-x"))
    page = store.search(names=["ada-*", "none"], limit=3)
    assert [one.id for one in page] == ["16", "12", "8"]
    assert [one.id for one in store.search(names=["ada-*"], before=page[-1].number, limit=3)] == ["4", "0"]
    assert store.search(names=[]) == []


def test_all_turns_are_those_of_each(store: JobStore) -> None:
    """A page of a thousand reads the queue once; who isn't in it has no turn."""
    for number in range(40):
        store.add(replace(job(str(number), path=f"/p/{number}"), tenant=f"tenant {number % 7}"))
    for id in ("0", "7", "1"):
        store.move(id, RUNNING)
    store.move("1", COMPLETED)
    ahead = store.queue.before(store.search(limit=100))
    assert sorted(ahead.values()) == list(range(37))
    for number in range(40):
        found = store.find(str(number))
        assert found is not None
        assert store.queue.before([found]).get(found.id, 0) == ahead.get(found.id, 0)
    following = store.next_queued()
    assert following is not None
    assert ahead[following.id] == 0
    assert ahead["14"] > ahead["8"] > ahead["2"], "by who runs, and by who began last"


def test_old_jobs_go_in_batches(store: JobStore) -> None:
    for number in range(7):
        store.add(job(str(number)))
        store.move(str(number), COMPLETED)
    gone = [store.delete_ended_before(time.time() + 1, limit=3) for _ in range(4)]
    assert [list(one) for one in gone] == [["0", "1", "2"], ["3", "4", "5"], ["6"], []]


def test_columns_of_a_later_release_are_left_out(store: JobStore) -> None:
    """Its server has brought the database up to date beside this one."""
    added = store.add(job("one"))
    with store._database.writing() as transaction:
        transaction.execute("ALTER TABLE jobs ADD COLUMN of_later TEXT NOT NULL DEFAULT 'x'")
    assert store.find("one") == added


def test_a_death_is_counted_and_queued_again_in_one_step(store: JobStore) -> None:
    store.add(job("one"))
    held = store.next_run("one", 0, RUNNING)
    assert held is not None
    assert store.count_death(held, "gone", most=2) == 1
    found = store.find("one")
    assert found is not None
    assert (found.state, found.is_open) == (QUEUED, False)
    held = store.next_run("one", 0, RUNNING)
    assert held is not None
    # Behind the last there is none: it is for whoever counts to end it.
    assert store.count_death(held, "gone", most=2) == 2
    assert (store.find("one") or held).state == RUNNING


@pytest.mark.parametrize("state", [RUNNING, QUEUED])
def test_no_two_with_one_path_are_begun_though_both_were_found(store: JobStore, state: str) -> None:
    """The first was paused when one server found the second, and was resumed and found by another then."""
    server = store.servers.join("one")
    for id in ("first", "second"):
        store.add(replace(job(id), path="/same"))
    store.move("first", PAUSED)
    assert (store.next_queued() or job("none")).id == "second"
    store.move("first", QUEUED)
    assert (store.next_queued() or job("none")).id == "first"
    assert store.next_run("second", 0, state, server) is None
    held = store.next_run("first", 0, state, server)
    assert held is not None
    assert store.next_run("second", 0, state, server) is None
    # Whichever came first.
    store.move("first", PAUSED, (), held)
    assert store.next_run("second", 0, state, server) is not None
    store.move("first", QUEUED)
    assert store.next_run("first", 0, state, server) is None


def test_what_no_text_can_be_is_nobodys_id(store: JobStore) -> None:
    assert store.find("a\0b") is None
    assert store.search(model_name="a\0b") == []
