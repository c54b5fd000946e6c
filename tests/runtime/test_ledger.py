"""How deaths are counted, and what is noted where the store fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import ERRORED, QUEUED, RUNNING
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.ledger import Ledger

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
