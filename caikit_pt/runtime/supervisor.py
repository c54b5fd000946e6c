"""Runs the queued jobs, each in a process, for as long as this one lives.

A job's process can die in any way; that is a reason on this job and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.attendant import Attendant
from caikit_pt.runtime.child import Child
from caikit_pt.runtime.fork_server import ForkServer
from caikit_pt.runtime.job import CANCELED, PAUSED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.ledger import Ledger
from caikit_pt.runtime.placement import Placement, placed
from caikit_pt.runtime.publisher import Publisher
from caikit_pt.runtime.slots import Slot, Slots
from caikit_pt.settings import Settings

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_TO_STOP, _SECONDS_TO_DIE = 9.0, 1.0
# How long a joined training, whose process has to live on, may take to leave at an update.
_SECONDS_TO_LEAVE = 3.0
_SECONDS_TO_CANCEL = 5.0
_TRIES_TO_COPY = 3


class Supervisor:
    """Keeps as many jobs of `store` running as there are `slots`."""

    def __init__(
        self, store: JobStore, root: Path, slots: int, now: Settings, on_published: Callable[[str], None]
    ) -> None:
        """The folders of jobs are in `root`; `on_published` is told where each prompt is."""
        self._store, self._settings = store, now
        self._slots, self._forks = Slots(slots), ForkServer()
        self._ledger = Ledger(store, root, now.max_attempts)
        self._attendant = Attendant(self._slots, self._ledger, Publisher(store, on_published))
        self._thread = threading.Thread(target=self._dispatch, name="jobs", daemon=True)

    def start(self) -> None:
        """From now on queued jobs are run. Raises OSError where there can't be a process."""
        if self._settings.prepare_trainings:
            self._forks.prepare()
        self._thread.start()

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
        with self._slots.lock:
            slot = self._slots.find(job.id)
            if slot is None:
                self._ledger.end(job, CANCELED)
                return
            slot.canceled, child = True, slot.child
            if child is not None and self._slots.of(child) == [slot]:
                child.kill()
        if child is not None:
            self._ask_to_leave(child, job, _SECONDS_TO_LEAVE)
        self._slots.wait_until_free(job.id, _SECONDS_TO_CANCEL)

    def pause(self, job: Job) -> None:
        """Stops a job behind a snapshot until it is resumed; returns when its device is free. One that has
        ended, or is trained and waits to be published, stays as it is.

        Raises StateUnavailable where it waits, and the store can't be written.
        """
        with self._slots.lock:
            slot = self._slots.find(job.id)
            if slot is None:
                self._ledger.pause(job)
                return
            if slot.trained:
                return
            slot.paused, child = True, slot.child
            if child is not None and self._slots.of(child) == [slot]:
                child.over = child.paused = True
                child.stop()
        if child is not None:
            self._ask_to_leave(child, job, _SECONDS_TO_STOP)
        self._slots.wait_until_free(job.id, _SECONDS_TO_CANCEL)
        with self._slots.lock:
            # It may have been on its way back to the queue; who has resumed it meanwhile has the last word.
            if slot.paused and self._is(job, QUEUED):
                self._ledger.pause(job)

    def resume(self, job: Job) -> None:
        """Queues a job that is paused; any other stays as it is. Raises StateUnavailable."""
        with self._slots.lock:
            if slot := self._slots.find(job.id):
                slot.paused = False
            if self._is(job, PAUSED):
                self._ledger.queue_again(job)
        self.wake()

    def _is(self, job: Job, state: str) -> bool:
        """Whether it is in `state` now."""
        found = self._store.find(job.id)
        return found is not None and found.state == state

    def stop(self) -> None:
        """Every training keeps a snapshot and is queued again. Takes less than ten seconds."""
        # First: whoever holds a slot may wait for it.
        self._forks.close()
        if not self._slots.close():
            return
        for child in self._slots.children:
            child.stop()
        self._slots.wait_until_empty(_SECONDS_TO_STOP)
        for child in self._slots.children:
            child.kill()
        self._slots.wait_until_empty(_SECONDS_TO_DIE)

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
        slot = self._slots.take(self._next_queued)
        if slot is None:
            return False
        try:
            self._run(slot)
        except Exception as error:
            if not self._forks.closed:
                _LOG.exception("a job can't be started")
            reason = f"Its process can't be started: {error}"
            self._attendant.leave(slot, lambda: self._not_begun(slot, reason))
        return True

    def _not_begun(self, slot: Slot, reason: str) -> None:
        if slot.canceled:
            self._ledger.end(slot.job, CANCELED)
        elif slot.paused:
            self._ledger.pause(slot.job)
        elif self._forks.closed:
            self._ledger.queue_again(slot.job)
        else:
            self._ledger.died(slot.job, reason)

    def _next_queued(self, besides: Sequence[str]) -> Job | None:
        job = self._store.next_queued(besides)
        return job if job is not None and self._store.move(job.id, RUNNING) else None

    def _run(self, slot: Slot) -> None:
        child, is_new = self._child_for(slot)
        if is_new:
            self._attendant.attend(child, f"job {slot.job.id}")
        assert slot.placement is not None, "who has a process has a place"
        try:
            child.command(**self._command(slot.job, slot.placement))
        except OSError:
            _LOG.info("the process of %s is gone before it began", slot.job.id)

    def _child_for(self, slot: Slot) -> tuple[Child, bool]:
        """The process that is to run a job, and whether it is a new one. It is tried some times, since it is
        no fault of the job that there is none. Raises OSError."""
        for left in reversed(range(_TRIES_TO_COPY)):
            try:
                # Seconds at times, in which others need the lock.
                self._forks.wait_until_ready()
                return self._given_child(slot)
            except OSError as error:
                if not left or self._forks.closed:
                    raise
                _LOG.warning("no process for %s, and another try: %s", slot.job.id, error)
        raise AssertionError("the last try raises")

    def _given_child(self, slot: Slot) -> tuple[Child, bool]:
        joined = self._settings.join_trainings
        with self._slots.lock:
            slot.placement = placed(slot.job, self._slots.gpus, joined)
            leaves = slot.canceled or slot.paused
            # Nobody else's process ends for a job that never began.
            company = self._company(slot.job) if joined and not leaves else None
            slot.child = child = company or Child(self._forks)
            if leaves:
                child.kill()
        return child, company is None

    def _command(self, job: Job, placement: Placement) -> dict[str, Any]:
        """What job_process.py is to do."""
        return {
            "run": job.id,
            "folder": str(self.folder(job.id).directory),
            "device": placement.device,
            "environment": placement.environment,
            "joined": self._settings.join_trainings,
            "seconds": self._settings.checkpoint_seconds,
            "told": job.progress.get("step", 0),
        }

    def _company(self, job: Job) -> Child | None:
        """The process of another training of the same base model, type and device."""
        for child in self._slots.children:
            others = self._slots.of(child)
            if not child.over and any(_key(other.job) == _key(job) for other in others):
                return child
        return None

    def _ask_to_leave(self, child: Child, job: Job, seconds: float) -> None:
        """The others of the process go on; if it takes longer it is killed, and they go on from snapshots."""
        # Who was told to end, or has ended, hears nothing.
        with suppress(OSError):
            child.command(cancel=job.id)
        if not self._slots.wait_until_free(job.id, seconds):
            child.kill()


def _key(job: Job) -> tuple[Any, ...]:
    return tuple(job.parameters[name] for name in ("base_model", "torch_dtype", "device"))
