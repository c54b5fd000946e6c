"""A slot is free again however its job ends: later jobs would wait for ever. Real processes: test_jobs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.attendant import Attendant
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.job import COMPLETED, ERRORED, QUEUED, RUNNING
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.ledger import Ledger
from caikit_pt.runtime.publisher import Publisher
from caikit_pt.runtime.reports import BROKEN, FAILED, INTERRUPTED, Report
from caikit_pt.runtime.slots import Slots

from .jobs import job


class Told:
    """A process that reports so much, and ends."""

    def __init__(self, *reports: Report) -> None:
        self._reports = reports
        self.over = self.is_blameless = self.goes_on = self.is_let_go = False

    def reports(self) -> tuple[Report, ...]:
        return self._reports

    def stop(self) -> None:
        pass

    def cause_of_death(self) -> str:
        return "Its process was ended by SIGSEGV."


HERE = Placement("cpu")
ENDS = [
    ([Report("a", FAILED, {"text": "diverged"})], ERRORED),
    ([Report("a", BROKEN, {"text": "no memory"})], QUEUED),
    ([Report("a", INTERRUPTED, {}), Report("a", FAILED, {"text": "told too late"})], QUEUED),
    ([Report("of another", FAILED, {"text": "nobody's"})], QUEUED),
    ([], QUEUED),
]


@pytest.mark.parametrize(("reports", "state"), ENDS)
def test_every_end_is_noted_and_frees_the_slot(reports: list[Report], state: str, tmp_path: Path) -> None:
    store, slots = JobStore(tmp_path), Slots(1)
    store.add(job("a"))
    store.move("a", RUNNING)
    slot = slots.take(lambda _: (store.find("a") or job("a"), HERE))
    assert slot is not None
    assert slots.take(lambda _: (job("b"), HERE)) is None
    child: Any = Told(*reports)
    slot.run = child
    attendant = Attendant(slots, Ledger(store, tmp_path, 3), Publisher(store, lambda path: None))
    attendant._attend(child)
    assert (store.find("a") or job("a")).state == state
    assert child.over
    assert slots.take(lambda _: (job("b"), HERE)) is not None


def test_what_another_server_has_now_is_not_heard_out(tmp_path: Path) -> None:
    """Each note would wait for a store that can't be reached, and the slot for all of them."""
    store, slots = JobStore(tmp_path), Slots(1)
    store.add(job("a"))
    store.move("a", RUNNING)
    slot = slots.take(lambda _: (store.find("a") or job("a"), HERE))
    assert slot is not None
    child: Any = Told(Report("a", "warning", {"text": "late"}), Report("a", FAILED, {"text": "late"}))
    slot.run, child.is_let_go, child.is_blameless = child, True, True
    Attendant(slots, Ledger(store, tmp_path, 3), Publisher(store, lambda path: None))._attend(child)
    assert (store.find("a") or job("a")).state == QUEUED
    assert [event.kind for event in store.events(slot.job)] == ["state", "state", "state"]


def test_a_slot_is_free_where_not_even_the_failure_can_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caikit_pt.runtime.ledger._SECONDS_BETWEEN_TRIES", 0.01)
    store, slots = JobStore(tmp_path), Slots(1)
    attendant = Attendant(slots, Ledger(store, tmp_path, 3), Publisher(store, lambda path: None))
    errors: list[Exception] = [StateUnavailable("locked"), ValueError("unforeseen"), RuntimeError("and more")]

    def fail(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(store, "move", fail)
    slot = slots.take(lambda _: (job("a"), HERE))
    assert slot is not None
    with pytest.raises(RuntimeError, match="and more"):
        attendant.leave(slot, lambda: store.move("a", COMPLETED))
    assert slots.find("a") is None
