"""How deaths are counted, and what is noted where the store fails."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import CANCELED, ERRORED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.ledger import Ledger
from caikit_pt.runtime.run_folder import RunFolder
from caikit_pt.tuning.snapshot import Snapshots

from .jobs import job


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """With one job that runs."""
    store = JobStore(tmp_path)
    store.add(job("a"))
    store.move("a", RUNNING)
    return store


def test_deaths_are_counted_until_a_snapshot_is_newer(store: JobStore, tmp_path: Path) -> None:
    ledger, one = Ledger(store, tmp_path / "jobs", max_attempts=2), store.find("a") or job("a")
    for reason in ("SIGSEGV", "SIGBUS"):
        store.move("a", RUNNING)
        ledger.died(one, reason)
        store.forget_deaths(one)
        assert (store.find("a") or one).state == QUEUED
    for reason in ("no memory", "exit code 3"):
        store.move("a", RUNNING)
        ledger.died(one, reason)
    found = store.find("a") or one
    assert (found.state, list(found.reasons)) == (ERRORED, ["SIGSEGV", "SIGBUS", "no memory", "exit code 3"])
    assert [event.data["text"] for event in store.events(one, kinds=[kinds.DEATH])] == list(found.reasons)


def run(store: JobStore, root: Path, has_begun: bool = True) -> tuple[Job, RunFolder]:
    """The next one of the job."""
    store.move("a", QUEUED)
    held = store.next_run("a", 0, RUNNING)
    assert held is not None
    folder = RunFolder(root / "a", held.fence)
    folder.directory.mkdir(parents=True)
    if has_begun:
        folder.begin()
    return held, folder


def test_a_run_that_is_lost_with_its_server_is_a_death_unless_it_got_further(
    store: JobStore, tmp_path: Path
) -> None:
    """A training that took all memory went from server to server for ever."""
    ledger = Ledger(store, tmp_path, max_attempts=2)

    def deaths() -> int:
        return (store.find("a") or job("a")).deaths

    held, _ = run(store, tmp_path)
    ledger.lost(held)
    assert deaths() == 1
    # It hadn't begun: another one did it.
    held, _ = run(store, tmp_path, has_begun=False)
    ledger.lost(held)
    assert deaths() == 1
    # Of its snapshot nobody has heard.
    held, folder = run(store, tmp_path)
    time.sleep(0.02)
    Snapshots(folder.snapshots, 60).keep(7, {"step": 7})
    ledger.lost(held)
    assert (deaths(), (store.find("a") or held).state) == (0, QUEUED)
    # What it has begun with it hasn't kept.
    for expected in (1, 2):
        held, folder = run(store, tmp_path)
        assert Snapshots(folder.snapshots, 60).newest() == {"step": 7}
        ledger.lost(held)
        assert deaths() == expected
    found = store.find("a") or held
    assert found.state == ERRORED
    assert [reason.partition(",")[0] for reason in found.reasons] == [
        "The server that it ran on was lost with it"
    ] * 3


def test_who_has_only_to_be_published_takes_no_server_along(store: JobStore, tmp_path: Path) -> None:
    held, folder = run(store, tmp_path)
    folder.artifact.mkdir()
    Ledger(store, tmp_path, max_attempts=1).lost(held)
    assert (store.find("a") or held).state == QUEUED


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_records_are_removed_though_the_server_was_killed_when_the_end_was_noted(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """They stayed until the job was forgotten."""
    address = request.getfixturevalue("postgres").database() if kind == "postgresql" else ""
    store, root = JobStore(tmp_path, address=address), tmp_path / "jobs"
    for id in ("ended", "gone", "waits", "cleared", "stuck"):
        store.add(job(id))
        (root / id / "runs").mkdir(parents=True)
        for name in ("job.json", "records.jsonl"):
            (root / id / name).write_text("{}")
    ledger = Ledger(store, root, max_attempts=3)
    for id in ("ended", "gone", "stuck"):
        store.move(id, CANCELED)
    shutil.rmtree(root / "gone")
    ledger.end(store.find("cleared") or job("cleared"), CANCELED)
    assert left(root / "cleared") == {"job.json", "outcome.json"}
    assert store.to_clear() == ["ended", "gone", "stuck"]
    remove = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "stuck":
            raise PermissionError(13, "not now")
        remove(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr("caikit_pt.runtime.job_folder._SECONDS_BETWEEN_TRIES", 0.01)
        patched.setattr(Path, "unlink", refused)
        ledger.clear_what_is_left()
    assert left(root / "ended") == {"job.json", "outcome.json"}
    assert left(root / "waits") == {"job.json", "records.jsonl", "runs"}
    # It is tried again at each start.
    assert store.to_clear() == ["stuck"]
    ledger.clear_what_is_left()
    assert left(root / "stuck") == {"job.json", "outcome.json"}
    assert store.to_clear() == []
    store.close()


def test_what_nobody_has_foreseen_ends_the_job_once_the_store_takes_it(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caikit_pt.runtime.ledger._SECONDS_BETWEEN_TRIES", 0.01)
    move, locked = store.move, iter([True, True, False])

    def locked_for_a_while(*told: Any) -> bool:
        if next(locked):
            raise StateUnavailable("the database is locked")
        return move(*told)

    def fail() -> None:
        raise ValueError("nobody has foreseen it")

    monkeypatch.setattr(store, "move", locked_for_a_while)
    Ledger(store, tmp_path, max_attempts=3).settle(job("a"), fail)
    found = store.find("a") or job("a")
    assert found.state == ERRORED
    assert "nobody has foreseen it" in found.reasons[0]
