"""Runs the queued jobs, each in a process, for as long as this one lives.

A job's process can die in any way; that is a reason on this job and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.attendant import Attendant
from caikit_pt.runtime.executors.executor import Executor, Run
from caikit_pt.runtime.executors.placement import NoRoom, Placement
from caikit_pt.runtime.job import CANCELED, ERRORED, PAUSED, QUEUED, RUNNING, TERMINAL, Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.lease import Lease
from caikit_pt.runtime.ledger import Ledger
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.publisher import Publisher
from caikit_pt.runtime.run_folder import last_run
from caikit_pt.runtime.slots import Slot, Slots
from caikit_pt.settings import Settings

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_TO_STOP, _SECONDS_TO_DIE = 9.0, 1.0
# How long a joined training, whose process has to live on, may take to leave at an update.
_SECONDS_TO_LEAVE = 3.0
_SECONDS_TO_CANCEL = 5.0
_TRIES_TO_COPY = 3
FILES_ARE_GONE = "Its files in state_dir are gone, or can't be read. Submit it again."
# Of the jobs that there is no place for, so many are passed over for one that there is a place for.
_MOST_PASSED = 16
# A cluster that has taken no run is asked again then.
_SECONDS_OF_REST = 5.0


class Supervisor:
    """Keeps as many jobs of `store` running by `executor` as there are `slots`, under a `lease`."""

    def __init__(
        self,
        store: JobStore,
        lease: Lease,
        root: Path,
        slots: int,
        now: Settings,
        executor: Executor,
        on_published: Callable[[str], None],
    ) -> None:
        """The folders of jobs are in `root`; `on_published` is told where each prompt is."""
        self._store, self._lease, self._settings = store, lease, now
        self._granting = set[str]()
        self._slots, self.executor = Slots(slots), executor
        self._told_why_not, self._rests_until = "", 0.0
        self._ledger = Ledger(store, root, now.max_attempts)
        self._attendant = Attendant(self._slots, self._ledger, Publisher(store, on_published))
        self._thread = threading.Thread(target=self._dispatch, name="jobs", daemon=True)

    def start(self) -> None:
        """From now on queued jobs are run. Raises OSError where there can't be a process."""
        self.executor.start(self._settings.prepare_trainings)
        self._thread.start()
        threading.Thread(target=self._ledger.clear_what_is_left, name="leftovers", daemon=True).start()

    def wake(self) -> None:
        """There is something new in the queue."""
        self._slots.wake()

    def folder(self, id: str) -> JobFolder:
        """Where the files of a job are."""
        return self._ledger.folder(id)

    def cancel(self, job: Job) -> None:
        """Ends a job, wherever it is; returns when its device is free. One that has ended stays as it is.

        Raises StateUnavailable where it waits, and the store can't be written.
        """

        def here(slot: Slot) -> Run | None:
            slot.canceled, run = True, slot.run
            if run is not None and self._slots.of(run) == [slot]:
                run.kill()
            return run

        run = self._change(job, CANCELED, here, lambda found: self._ledger.end(found, CANCELED))
        if run is not None:
            self._ask_to_leave(run, job, _SECONDS_TO_LEAVE)
        self._slots.wait_until_free(job.id, _SECONDS_TO_CANCEL)

    def pause(self, job: Job) -> None:
        """Stops a job behind a snapshot until it is resumed; returns when its device is free. One that has
        ended, or is trained and waits to be published, stays as it is.

        Raises StateUnavailable where it waits, and the store can't be written.
        """
        paused = list[Slot]()

        def here(slot: Slot) -> Run | None:
            if slot.trained:
                return None
            paused.append(slot)
            slot.paused, slot.wished, run = True, job.wish == PAUSED, slot.run
            if run is not None and self._slots.of(run) == [slot]:
                run.over = run.paused = True
                run.stop()
            return run

        run = self._change(job, PAUSED, here, self._ledger.pause)
        if run is not None:
            self._ask_to_leave(run, job, _SECONDS_TO_STOP)
        for slot in paused:
            self._slots.wait_until_free(job.id, _SECONDS_TO_CANCEL)
            with self._slots.lock:
                # It may have been on its way back to the queue; who has resumed it meanwhile has the last
                # word.
                found = self._store.find(job.id)
                if slot.paused and not slot.wished and found and found.state == QUEUED:
                    self._ledger.pause(found)

    def _change(
        self, job: Job, state: str, here: Callable[[Slot], Run | None], waits: Callable[[Job], object]
    ) -> Run | None:
        """Does `here` where the job is under way here; its process, where there is one. Does `waits` where no
        server has it; asks the one that has, and waits for it a while."""
        deadline = time.monotonic() + _SECONDS_TO_CANCEL
        while time.monotonic() < deadline:
            with self._slots.lock:
                if slot := self._slots.find(job.id):
                    return here(slot)
                seen, found = self._store.changes, self._store.find(job.id)
                if found is None or found.state in (state, *TERMINAL):
                    return None
                if found.owner in ("", self._lease.id):
                    # Where another server takes it in this moment, nothing is changed.
                    waits(found)
                    continue
                if found.wish not in (state, CANCELED):
                    self._store.wish(found, state)
            self._store.wait_for_change(seen, _SECONDS_BETWEEN_TRIES)
        return None

    def resume(self, job: Job) -> None:
        """Queues a job that is paused; any other stays as it is. Raises StateUnavailable."""
        with self._slots.lock:
            if slot := self._slots.find(job.id):
                slot.paused = False
            found = self._store.find(job.id)
            if found and found.state == PAUSED:
                self._ledger.queue_again(found)
            elif found and found.wish == PAUSED:
                self._store.wish(found, "")
        self.wake()

    # ---- what other servers had, or were asked for: see Heir ----

    def give_up(self) -> None:
        """See Heir."""
        for run in self._slots.runs:
            run.let_go()

    def inherit(self) -> None:
        """See Heir."""
        with self._slots.lock:
            taken = [id for id in self._store.owned_by(self._lease.id) if self._slots.find(id) is None]
        for id in taken:
            if (job := self._store.find(id)) and job.owner == self._lease.id:
                self._take_over(job)

    def grant(self, wishes: Sequence[Job]) -> None:
        """See Heir."""
        for job in wishes:
            with self._slots.lock:
                if job.id in self._granting or self._slots.find(job.id) is None:
                    continue
                self._granting.add(job.id)
            try:
                granting = threading.Thread(
                    target=self._grant, args=(job,), name=f"wish {job.id}", daemon=True
                )
                granting.start()
            except RuntimeError:  # no thread for it now
                self._granting.discard(job.id)

    def _grant(self, job: Job) -> None:
        try:
            self.cancel(job) if job.wish == CANCELED else self.pause(job)
        except StateUnavailable as error:
            _LOG.warning("what is wished of %s is tried again: %s", job.id, error)
        finally:
            with self._slots.lock:
                self._granting.discard(job.id)

    def _take_over(self, job: Job) -> None:
        """A job that a server which is no more has begun."""
        folder = self.folder(job.id)
        if not folder.job() and not self._store.is_shared:
            self._ledger.end(job, ERRORED, [FILES_ARE_GONE])
        elif run := self.executor.found(job, folder):
            self._slots.hold(job, run)
            self._attendant.attend(run, f"job {job.id}")
        elif job.wish == CANCELED:
            self._ledger.end(job, CANCELED)
        elif job.wish == PAUSED:
            self._ledger.pause(job)
        elif self._lease.is_lost(job) and not self.executor.outlives:
            self._ledger.lost(job)
        else:
            self._ledger.queue_again(job)

    def stop(self) -> None:
        """Every training that doesn't outlive the server keeps a snapshot and is queued again. Takes less
        than ten seconds."""
        # First: whoever holds a slot may wait for it.
        self.executor.close()
        if not self._slots.close():
            return
        for run in self._ending:
            run.stop()
        self._slots.wait_until_empty(_SECONDS_TO_STOP)
        for run in self._ending:
            run.kill()
        self._slots.wait_until_empty(_SECONDS_TO_DIE)

    @property
    def _ending(self) -> Sequence[Run]:
        """The processes that end with the server."""
        return () if self.executor.outlives else self._slots.runs

    def _dispatch(self) -> None:
        while not self._slots.closed:
            if not self._has_started_one():
                self._slots.wait(_SECONDS_BETWEEN_TRIES)

    def _has_started_one(self) -> bool:
        try:
            return self._start_next()
        except Exception as error:  # whatever it is, later jobs wait for the next try
            foreseen = isinstance(error, StateUnavailable | OSError)
            _LOG.warning("no job can be started now: %s", error, exc_info=not foreseen)
            return False

    def _start_next(self) -> bool:
        """Whether there was a job, and a slot for it."""
        if not self._may_start():
            return False
        slot = self._slots.take(self._next_queued)
        if slot is None:
            return False
        try:
            self._run(slot)
        except Exception as error:
            if not self.executor.closed:
                _LOG.exception("a job can't be started")
            reason = f"Its process can't be started: {error}"
            self._attendant.leave(slot, lambda: self._not_begun(slot, reason))
        return True

    def _may_start(self) -> bool:
        if time.monotonic() < self._rests_until or not self._lease.is_held:
            return False
        told, self._told_why_not = self._told_why_not, self.executor.why_not()
        if self._told_why_not not in ("", told):
            _LOG.warning("no training can be started now: %s", self._told_why_not)
        return not self._told_why_not

    def _not_begun(self, slot: Slot, reason: str) -> None:
        if slot.canceled:
            self._ledger.end(slot.job, CANCELED)
        elif slot.paused:
            self._ledger.pause(slot.job)
        elif self.executor.closed or self.executor.why_not():
            self._ledger.queue_again(slot.job)
        else:
            self._ledger.died(slot.job, reason)

    def _next_queued(self, besides: Sequence[str]) -> tuple[Job, Placement] | None:
        """The first that there is a place for, with the number of a new run. A cluster may have no room for
        it yet: until it is heard of, it is queued. Raises StateUnavailable."""
        # Two that may have taken a machine's memory don't begin there at once: it would be the fault of both,
        # and each would take the other along.
        unhurt = not self.executor.outlives and self._store.has_hurt(self._lease.id)
        passed = list[str]()
        while len(passed) < _MOST_PASSED and (job := self._store.next_queued([*besides, *passed], unhurt)):
            try:
                placement = self._place(job)
            except NoRoom as error:
                passed.append(job.id)
                self._ledger.wait(job, str(error))
                continue
            above = last_run(self.folder(job.id).directory)
            state = QUEUED if self.executor.outlives else RUNNING
            begun = self._store.next_run(job.id, above, state, self._lease.id)
            return (begun, placement) if begun else None
        return None

    def _place(self, job: Job) -> Placement:
        """Raises NoRoom."""
        company = self._company(job) if self.executor.joins else None
        for other in self._slots.of(company) if company else ():
            if other.placement is not None:
                return other.placement
        return self.executor.place(job, self._slots.gpus, self._slots.promised)

    def _run(self, slot: Slot) -> None:
        run, is_new = self._run_for(slot)
        if is_new:
            self._attendant.attend(run, f"job {slot.job.id}")
        assert slot.placement is not None, "who has a process has a place"
        try:
            run.begin(self._order(slot.job, slot.placement))
        except OSError as error:
            _LOG.info("the process of %s is gone before it began: %s", slot.job.id, error)
            if self.executor.outlives:
                self._rests_until = time.monotonic() + _SECONDS_OF_REST

    def _run_for(self, slot: Slot) -> tuple[Run, bool]:
        """The process that is to run a job, and whether it is a new one. It is tried some times, since it is
        no fault of the job that there is none. Raises OSError."""
        for left in reversed(range(_TRIES_TO_COPY)):
            try:
                # Seconds at times, in which others need the lock.
                self.executor.wait_until_ready()
                return self._given_run(slot)
            except OSError as error:
                if not left or self.executor.closed:
                    raise
                _LOG.warning("no process for %s, and another try: %s", slot.job.id, error)
        raise AssertionError("the last try raises")

    def _given_run(self, slot: Slot) -> tuple[Run, bool]:
        with self._slots.lock:
            leaves = slot.canceled or slot.paused
            # Nobody else's process ends for a job that never began.
            company = self._company(slot.job) if self.executor.joins and not leaves else None
            slot.run = run = company or self.executor.run_of(slot.job, self.folder(slot.job.id))
            if leaves:
                run.kill()
        return run, company is None

    def _order(self, job: Job, placement: Placement) -> Order:
        return Order(
            job=job.id,
            folder=str(self.folder(job.id).directory),
            fence=job.fence,
            device=placement.device,
            environment={**self.executor.environment, **placement.environment},
            joined=self.executor.joins,
            seconds=self._settings.checkpoint_seconds,
            told=job.progress.get("step", 0),
            alone=self.executor.outlives,
            shared=self._store.is_shared,
            workers=self.executor.workers,
            elsewhere=self.executor.elsewhere,
        )

    def _company(self, job: Job) -> Run | None:
        """The process of another training of the same base model, type and device."""
        for run in self._slots.runs:
            others = self._slots.of(run)
            if not run.over and any(_key(other.job) == _key(job) for other in others):
                return run
        return None

    def _ask_to_leave(self, run: Run, job: Job, seconds: float) -> None:
        """The others of the process go on; if it takes longer it is killed, and they go on from snapshots."""
        # Who was told to end, or has ended, hears nothing.
        with suppress(OSError):
            run.leave(job.id)
        if not self._slots.wait_until_free(job.id, seconds):
            run.kill()


def _key(job: Job) -> tuple[Any, ...]:
    return tuple(job.parameters[name] for name in ("base_model", "torch_dtype", "device"))
