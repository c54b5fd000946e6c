"""What keeps jobs from being started, and what doesn't. Real processes: test_jobs.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.executors.local import LocalExecutor
from caikit_pt.runtime.executors.node import GIB
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.job import CANCELED, ERRORED, PAUSED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.lease import Lease
from caikit_pt.runtime.slots import Slots
from caikit_pt.runtime.supervisor import Supervisor
from caikit_pt.runtime.trainer import reasons
from tests.conftest import SETTINGS

from .jobs import job


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """With one job that waits."""
    store = JobStore(tmp_path)
    store.add(job("a"))
    return store


def supervisor(store: JobStore, root: Path, max_attempts: int = 2) -> Supervisor:
    """With a slot, and without a process."""
    settings = replace(SETTINGS, max_attempts=max_attempts)
    lease = Lease(store, "here")
    return Supervisor(store, lease, root, 1, settings, LocalExecutor(False), on_published=lambda path: None)


def test_nothing_that_a_start_fails_with_ends_the_search_for_jobs(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later jobs would wait for ever."""
    monkeypatch.setattr("caikit_pt.runtime.supervisor._SECONDS_BETWEEN_TRIES", 0.01)
    searching = supervisor(store, tmp_path)
    errors = [StateUnavailable("locked"), OSError(28, "no space"), ValueError("a row that can't be read")]

    def fail(*_: object) -> None:
        if errors:
            raise errors.pop(0)
        searching.stop()

    monkeypatch.setattr(store, "next_queued", fail)
    searching._dispatch()
    assert errors == []


def test_a_process_that_cannot_be_started_is_a_death(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(11, "no more processes")

    monkeypatch.setattr("caikit_pt.runtime.executors.fork_server.ForkServer.wait_until_ready", none)
    starting = supervisor(store, tmp_path)
    states = []
    for _ in range(3):
        states.append((starting._start_next(), (store.find("a") or job("a")).state))
    assert states == [(True, QUEUED), (True, ERRORED), (False, ERRORED)]
    assert "no more processes" in (store.find("a") or job("a")).reasons[0]


def test_a_job_that_has_no_process_yet_is_cancelled(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = supervisor(store, tmp_path)

    def cancelled(*_: object) -> None:
        slot = starting._slots.find("a")
        assert slot is not None
        slot.canceled = True
        raise OSError(11, "no more processes")

    monkeypatch.setattr("caikit_pt.runtime.executors.fork_server.ForkServer.wait_until_ready", cancelled)
    assert starting._start_next()
    assert (store.find("a") or job("a")).state == CANCELED


def test_of_those_that_died_one_begins_at_a_time(store: JobStore, tmp_path: Path) -> None:
    """One of them takes all memory, and all that run beside it would die with it time and again."""
    for id in ("b", "c", "d"):
        store.add(job(id))
    for id in ("a", "b"):
        store.count_death(store.find(id) or job(id), "gone")
    starting = supervisor(store, tmp_path)

    def begin() -> Job | None:
        begun = starting._next_queued(())
        return begun[0] if begun else None

    begun = [begin() for _ in range(4)]
    assert [one and one.id for one in begun] == ["a", "c", "d", None]
    # It has got further, and is above suspicion.
    store.forget_deaths(begun[0] or job("a"))
    assert (begin() or job("none")).id == "b"


def test_the_end_of_the_server_is_no_death_of_a_job_that_has_no_process_yet(
    store: JobStore, tmp_path: Path
) -> None:
    starting = supervisor(store, tmp_path, max_attempts=1)
    starting.executor.close()
    assert starting._start_next()
    found = store.find("a") or job("a")
    assert (found.state, list(found.reasons)) == (QUEUED, [])


def test_a_job_that_has_no_process_yet_is_paused(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = supervisor(store, tmp_path, max_attempts=1)

    def paused(*_: object) -> None:
        slot = starting._slots.find("a")
        assert slot is not None
        slot.paused = True
        raise OSError(11, "no more processes")

    monkeypatch.setattr("caikit_pt.runtime.executors.fork_server.ForkServer.wait_until_ready", paused)
    assert starting._start_next()
    assert (store.find("a") or job("a")).state == PAUSED
    assert not starting._start_next()


def test_a_job_that_waits_is_paused_until_it_is_resumed(store: JobStore, tmp_path: Path) -> None:
    store.add(job("b"))
    pausing = supervisor(store, tmp_path)
    pausing.pause(job("a"))
    pausing.pause(job("a"))
    assert (store.find("a") or job("a")).state == PAUSED
    assert (store.next_queued() or job("a")).id == "b"
    pausing.resume(job("a"))
    pausing.resume(job("a"))
    # At its old place.
    assert (store.next_queued() or job("b")).id == "a"
    states = [event.data["state"] for event in store.events(store.find("a") or job("a"))]
    assert states == [QUEUED, PAUSED, QUEUED]


def test_what_is_paused_can_be_cancelled_and_what_has_ended_stays(store: JobStore, tmp_path: Path) -> None:
    pausing = supervisor(store, tmp_path)
    pausing.pause(job("a"))
    pausing.cancel(job("a"))
    for change in (pausing.pause, pausing.resume):
        change(job("a"))
        assert (store.find("a") or job("a")).state == CANCELED


def test_who_is_resumed_while_it_stops_is_queued(store: JobStore, tmp_path: Path) -> None:
    pausing = supervisor(store, tmp_path)
    slot = pausing._slots.take(pausing._next_queued)
    assert slot is not None
    slot.paused = True
    pausing.resume(slot.job)
    pausing._attendant._set_aside(slot)
    assert (store.find("a") or job("a")).state == QUEUED
    # And the other way round: its end has been noted, and the slot isn't free yet.
    slot.paused = True
    slot.job = store.next_run("a", 1, RUNNING, slot.job.owner) or slot.job
    pausing._attendant._set_aside(slot)
    assert (store.find("a") or job("a")).state == PAUSED
    pausing.resume(slot.job)
    assert (store.find("a") or job("a")).state == QUEUED


def test_a_job_that_waits_is_cancelled_at_once(store: JobStore, tmp_path: Path) -> None:
    supervisor(store, tmp_path).cancel(job("a"))
    assert (store.find("a") or job("a")).state == CANCELED


def test_a_job_waits_for_a_gpu_that_has_the_memory_and_others_pass_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once there is one it is first again."""
    free = {"cuda:0": 20 * GIB}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[device], 80 * GIB))
    store = JobStore(tmp_path)
    large = replace(job("large", device="cuda"), least_memory=30 * GIB)
    for one in (large, replace(job("small", device="cuda"), least_memory=GIB)):
        store.add(one)
    starting = supervisor(store, tmp_path)
    slot = starting._slots.take(starting._next_queued)
    assert slot is not None
    assert (slot.job.id, slot.placement) == ("small", Placement("cuda:0", (0,)))
    told = "It needs 1 GPU with 30.5 GiB; the largest free here is 1 GPU with 20.0 GiB."
    waiting = store.find("large") or large
    assert waiting.state == QUEUED
    assert reasons(store, waiting) == [told]
    # As long as it is so that is told once.
    starting._slots.free(slot)
    assert starting._slots.take(starting._next_queued) is None
    assert [event.kind for event in store.events(waiting)] == ["state", "waiting"]
    free["cuda:0"] = 70 * GIB
    store.add(replace(job("later", device="cuda"), least_memory=GIB))
    slot = starting._slots.take(starting._next_queued)
    assert slot is not None
    assert slot.job.id == "large"


def test_what_a_job_has_taken_is_promised_no_longer(store: JobStore) -> None:
    slots = Slots(2)
    shared = replace(job("b", device="cuda:1"), least_memory=GIB)
    slot = slots.take(lambda _: (shared, Placement("cuda:1")))
    assert slot is not None
    assert slots.promised == {1: 1.5 * GIB}
    slot.trains = True
    assert slots.promised == {}
