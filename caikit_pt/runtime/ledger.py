"""What becomes of jobs: noted in the store, and at the end in their folders."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import ERRORED, PAUSED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.reports import Report
from caikit_pt.tuning.failure import explained

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 1.0
_MOST_DEATHS = 10_000
_SECONDS_BETWEEN_REASONS = 60.0
_SERVER_LOST = (
    "The server that it ran on was lost with it, before it had kept a new snapshot. Did it take all memory "
    "of that machine?"
)


class Ledger:
    """Of the jobs in `store`, whose folders are in `root`.

    A job that dies is queued again, to go on from its last snapshot, unless it has died `max_attempts` times
    without getting any further. Every method raises StateUnavailable, except `note` and `settle`. What is
    said of a job that another server has taken over meanwhile is left out.
    """

    def __init__(self, store: JobStore, root: Path, max_attempts: int) -> None:
        self._store, self._root, self._max_attempts = store, root, max_attempts

    def folder(self, id: str) -> JobFolder:
        """Where the files of a job are."""
        return JobFolder(self._root / id)

    def note(self, job: Job, report: Report) -> None:
        """Something that has happened to a job on its way. One that the store doesn't take is lost."""
        if report.kind == kinds.WARNING:
            _LOG.warning("training of %s: %s", job.model_name, report.data["text"])
        try:
            self._store.add_event(job.id, report.kind, report.data, report.number, job)
            if report.kind == kinds.SNAPSHOT:
                self._store.forget_deaths(job)
        except StateUnavailable as error:
            _LOG.warning("an event of %s is lost: %s", job.id, error)

    def wait(self, job: Job, why: str) -> None:
        """Nobody has it, and this is why: told when it is new, and not all the time."""
        told = self._store.last_event(job, [kinds.STATE, kinds.WAITING_FOR, kinds.DEATH])
        if told and told.kind == kinds.WAITING_FOR:
            is_news = told.data["text"] != why and time.time() > told.time + _SECONDS_BETWEEN_REASONS
        else:
            is_news = True
        if is_news:
            self._store.add_event(job.id, kinds.WAITING_FOR, {"text": why}, held=job)

    def is_held(self, job: Job) -> bool:
        """Whether nobody else has taken it over."""
        return self._store.is_held(job)

    def wish_of(self, job: Job) -> str:
        """The state that other servers ask for now."""
        found = self._store.find(job.id)
        return found.wish if found else ""

    def begin(self, job: Job) -> None:
        """It is under way, if it wasn't before. What the store doesn't take now is made up for at its end."""
        try:
            self._store.move(job.id, RUNNING, (), job)
        except StateUnavailable as error:
            _LOG.warning("that %s has begun can't be noted: %s", job.id, error)

    def queue_again(self, job: Job) -> None:
        """It goes on later, from its last snapshot."""
        self._store.move(job.id, QUEUED, (), job)

    def pause(self, job: Job) -> None:
        """It goes on when it is resumed, from its last snapshot."""
        self._store.move(job.id, PAUSED, (), job)

    def died(self, job: Job, reason: str) -> None:
        """Its process has ended, and another may get further."""
        _LOG.warning("training of %s: %s", job.model_name, reason)
        if self._store.count_death(job, reason, self._max_attempts) < self._max_attempts:
            return
        told = self._store.events(job, kinds=[kinds.DEATH], limit=_MOST_DEATHS)
        self.end(job, ERRORED, [event.data["text"] for event in told])

    def lost(self, job: Job) -> None:
        """Its server has died, and the run with it: perhaps by this job, unless that had got further."""
        run = self.folder(job.id).run(job.fence)
        if run.has_got_further:
            # Of its last snapshot nobody has heard.
            self._store.forget_deaths(job)
        if run.has_got_further or not run.has_begun:
            self.queue_again(job)
        else:
            self.died(job, _SERVER_LOST)

    def end(self, job: Job, state: str, reasons: Sequence[str] = ()) -> None:
        """It has ended in `state`; one that had ended before stays as it is."""
        self._store.move(job.id, state, reasons, job)
        # Also where the last try was noted, and nobody heard so.
        self._clear(job.id)

    def clear_what_is_left(self) -> None:
        """Of jobs whose ends were noted by a server that was killed before it had removed their files, or
        that couldn't. Raises nothing: the next server tries again."""
        try:
            for id in self._store.to_clear():
                self._clear(id)
        except StateUnavailable as error:
            _LOG.warning("whether files of ended trainings remain in state_dir isn't known: %s", error)

    def _clear(self, id: str) -> None:
        ended = self._store.find(id)
        if ended is None or not ended.ended_for_good:
            return
        folder = self.folder(id)
        try:
            if folder.directory.exists():
                folder.end(ended)
        except OSError as error:
            _LOG.warning("files of %s remain in state_dir until the next start: %s", id, error)
            return
        try:
            self._store.set_cleared(id)
        except StateUnavailable as error:
            # Its end is noted.
            _LOG.warning("that the files of %s are removed can't be noted: %s", id, error)

    def settle(self, job: Job, note: Callable[[], object]) -> None:
        """Does `note` until the store takes it. Where that fails otherwise, the job ends in ERRORED."""
        try:
            self._insist(job, note)
        except Exception as error:
            _LOG.exception("the end of a job failed")
            reason = str(explained(error))
            self._insist(job, lambda: self._store.move(job.id, ERRORED, [reason], job))

    def _insist(self, job: Job, note: Callable[[], object]) -> None:
        while True:
            try:
                note()
                return
            except StateUnavailable as error:
                _LOG.warning("the end of %s can't be noted yet: %s", job.id, error)
                time.sleep(_SECONDS_BETWEEN_TRIES)
