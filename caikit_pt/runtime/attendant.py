"""Attends to a process with jobs: what it tells is noted, and what comes of each job is seen to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from caikit_pt.runtime.executors.executor import Run
from caikit_pt.runtime.job import CANCELED, COMPLETED, ERRORED, PAUSED, PROGRESS, WAITING_FOR
from caikit_pt.runtime.ledger import Ledger
from caikit_pt.runtime.publisher import Publisher
from caikit_pt.runtime.reports import BROKEN, ENDS, FAILED, FINISHED, Report
from caikit_pt.runtime.slots import Slot, Slots

_LOG = logging.getLogger(__name__)


class Attendant:
    """Sees to it that a slot is free again, however its job ends: later jobs wait for it.

    Those whose prompt waits to be published don't hold them up."""

    def __init__(self, slots: Slots, ledger: Ledger, publisher: Publisher) -> None:
        self._slots, self._ledger, self._publisher = slots, ledger, publisher

    def attend(self, run: Run, name: str) -> None:
        """From now on, in a thread of its own, until the process has ended."""
        threading.Thread(target=self._attend, args=(run,), name=name, daemon=True).start()

    def leave(self, slot: Slot, note: Callable[[], object]) -> None:
        """Notes what has become of a job until the store takes it, and frees its slot."""
        try:
            self._ledger.settle(slot.job, note)
        finally:
            self._slots.free(slot)

    def _attend(self, run: Run) -> None:
        try:
            for report in run.reports():
                self._take(run, report)
        except Exception:  # whatever it is, later jobs wait for the slot
            _LOG.exception("a run isn't listened to any more")
            run.kill()
        finally:
            with self._slots.lock:
                run.over = True
                left = self._slots.of(run)
            for slot in left:
                self.leave(slot, partial(self._lost, slot, run))

    def _take(self, run: Run, report: Report) -> None:
        slot = self._slots.find(report.job)
        if slot is None or slot.run is not run or run.is_let_go:
            return
        if not slot.begun and report.kind != WAITING_FOR:
            slot.begun = True
            self._ledger.begin(slot.job)
        slot.trains = slot.trains or report.kind == PROGRESS
        if report.kind not in ENDS:
            self._ledger.note(slot.job, report)
            return
        self._part(slot, run)
        if report.kind != FINISHED:
            self.leave(slot, partial(self._ended, slot, report))
            return
        # A disk may be full: other jobs, of this process, too, needn't wait until there is room.
        self._slots.make_way(slot)
        publishing = partial(self.leave, slot, partial(self._publish, slot))
        threading.Thread(target=publishing, name=f"publishing {slot.job.id}", daemon=True).start()

    def _part(self, slot: Slot, run: Run) -> None:
        """The process is done with the job, and without another it ends."""
        with self._slots.lock:
            slot.run = None
            if not self._slots.of(run):
                run.over = True
                run.stop()

    def _ended(self, slot: Slot, report: Report) -> None:
        if slot.canceled:
            self._ledger.end(slot.job, CANCELED)
        elif report.kind == FAILED:
            self._ledger.end(slot.job, ERRORED, [report.data["text"]])
        elif report.kind == BROKEN:
            self._ledger.died(slot.job, report.data["text"])
        else:
            self._set_aside(slot)

    def _lost(self, slot: Slot, run: Run) -> None:
        """The process has ended without a word on this job."""
        if slot.canceled:
            self._ledger.end(slot.job, CANCELED)
        elif run.goes_on:
            return
        elif self._slots.closed or run.is_blameless:
            self._set_aside(slot)
        else:
            self._ledger.died(slot.job, run.cause_of_death())

    def _set_aside(self, slot: Slot) -> None:
        """It goes on from its last snapshot: when there is a slot again, or when it is resumed."""
        with self._slots.lock:
            is_paused = slot.paused and not (slot.wished and self._ledger.wish_of(slot.job) != PAUSED)
            note = self._ledger.pause if is_paused else self._ledger.queue_again
            note(slot.job)

    def _is_wanted(self, slot: Slot) -> bool:
        """Also not by whoever has taken it over. Raises StateUnavailable where nobody can tell."""
        return not (slot.canceled or self._slots.closed) and self._ledger.is_held(slot.job)

    def _publish(self, slot: Slot) -> None:
        made = self._ledger.folder(slot.job.id).run(slot.job.fence).artifact
        name = self._publisher.publish(slot.job, made, lambda: self._is_wanted(slot))
        if name:
            self._ledger.end(slot.job, COMPLETED, self._publisher.reasons(slot.job, made, name))
        elif slot.canceled:
            self._ledger.end(slot.job, CANCELED)
        else:
            self._ledger.queue_again(slot.job)
