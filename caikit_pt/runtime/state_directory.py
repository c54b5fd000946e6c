"""A `state_dir` that this process owns: what is accepted is on disk, and whatever lies there is seen to."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import IO

from caikit_pt import call
from caikit_pt.base_model.loading.libraries import import_libraries
from caikit_pt.errors import (
    CaikitPtError,
    InvalidParameter,
    QuotaExceeded,
    StateUnavailable,
    TooManyJobs,
)
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.executors.executors import executor_of
from caikit_pt.runtime.follower import Follower
from caikit_pt.runtime.job import ERRORED, WAITING, Job
from caikit_pt.runtime.job_folder import JobFolder, folders
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.lease import Lease
from caikit_pt.runtime.making import AnyPlan, Found, Making, Plan
from caikit_pt.runtime.makings import making_of
from caikit_pt.runtime.state_id import state_id
from caikit_pt.runtime.supervisor import FILES_ARE_GONE, Supervisor
from caikit_pt.runtime.training_quotas import TrainingQuotas
from caikit_pt.settings import Settings
from caikit_pt.tracking.trackers import trackers

_LOG = logging.getLogger(__name__)
_SECONDS_FOR_ANOTHER_SERVER = 15.0
_SECONDS_A_DAY = 86_400
_SECONDS_TO_TRACK = 0.5
# More records than these are tokenised only when their turn comes.
_MOST_LOOKED_THROUGH = 10_000
_ALL = 1_000_000
_SECONDS_OF_A_LEFTOVER = 3600.0


class StateDirectory:
    """Its jobs are run, tracked and remembered by this process; by no other meanwhile, but where they share a
    database."""

    def __init__(self, now: Settings, on_published: Callable[[str], None]) -> None:
        """Takes over what an earlier server has left; `on_published` is told the path of each new prompt.

        Raises StateUnavailable.
        """
        # In one thread: the first requests come in many.
        import_libraries()
        self._settings = now
        self._submitting = threading.Lock()
        root = Path(now.state_dir).absolute()
        self._lock = _locked(root, shared=bool(now.database))
        tracking = trackers(now.tracking)
        self.store = JobStore(root, [tracker.name for tracker in tracking], now.database)
        self.quotas = TrainingQuotas(now.quotas, self.store)
        self._jobs = root / "jobs"
        # Empty where no other server may have it, too.
        self.shared_id = self._checked(root) if now.database else ""
        executor, slots = executor_of(now, root, self.store.open_runs)
        self._lease = Lease(self.store, f"{gethostname()} (process {os.getpid()})")
        self.supervisor = Supervisor(self.store, self._lease, self._jobs, slots, now, executor, on_published)
        self._followers = [
            Follower(self.store, tracker, lambda: self._lease.is_first) for tracker in tracking
        ]
        self._recover()
        self._lease.start(self.supervisor)
        self.supervisor.start()
        for follower in self._followers:
            follower.start()

    def _checked(self, root: Path) -> str:
        """Its id. Raises StateUnavailable where another one than this has the folders of the jobs in the
        database."""
        try:
            id = state_id(root)
            if self.store.belongs_to(id):
                return id
        except OSError as error:
            raise StateUnavailable(f"state_dir {root} can't be read: {error}") from error
        raise StateUnavailable(
            f"state_dir {root} isn't the one of the servers that share this database: is the disk that they "
            "share mounted there, and is state_dir the same for all of them? Trainings need their folders."
        )

    @property
    def is_first(self) -> bool:
        """Whether what one of many servers does is this one's."""
        return self._lease.is_first

    def stop(self) -> None:
        """Trainings first. What can't be tracked any more is so by the next server."""
        self.supervisor.stop()
        for follower in self._followers:
            follower.stop(_SECONDS_TO_TRACK)
        self._lease.stop()

    def close(self) -> None:
        """Another may have it."""
        self.store.close()
        self._lock.close()

    def accept(self, job: Job, plan: Plan) -> Job:
        """Raises TooManyJobs, StateUnavailable, InvalidParameter where the id is another's, and what
        `look_through` raises."""
        found = self.look_through(making_of(job.makes), plan)
        job = replace(job, memory=found.device_memory, least_memory=found.least_memory)
        call.check_client()
        with self._submitting:
            known = self._known(job)
            if known is not None:
                return known
            self._make_room(job.tenant)
            job = self._add(job, plan)
        self._warn(job, found.warnings)
        self.supervisor.wake()
        return job

    def look_through(self, making: Making[AnyPlan, Found], plan: AnyPlan) -> Found:
        """What a training would do, where it may be submitted. Raises QuotaExceeded, InvalidRecord,
        OutOfMemory, InvalidParameter; ClientLeft where nobody waits for it any more."""
        self.quotas.check_records(plan.streams)
        call.check_client()
        found = making.look_through(plan, _MOST_LOOKED_THROUGH)
        call.check_client()
        plan.check_training()
        return found

    def _known(self, job: Job) -> Job | None:
        """The job that it is, where it was submitted before. Raises InvalidParameter where it is another."""
        known = self.store.find(job.id)
        if known is not None and known.digest != job.digest:
            taken = (
                "that of a training with other contents" if call.may("watch", known.model_name) else "taken"
            )
            raise InvalidParameter("training_id", job.id, f"a new id; this one is {taken}")
        return known

    def _add(self, job: Job, plan: Plan) -> Job:
        """On disk, then in the store, or in neither."""
        folder = self.supervisor.folder(job.id)
        try:
            folder.create(job, plan)
        except FileExistsError:
            # Another server has it, or had and ended before its row was written.
            return self._accepted(job, folder)
        except OSError as error:
            raise StateUnavailable(
                f"The training isn't accepted, since it can't be written: {error.strerror or error}"
            ) from error
        try:
            return self.store.add(job, self._settings.max_queued, self.quotas.check_waiting)
        except (TooManyJobs, QuotaExceeded):
            # Others have been accepted meanwhile, at other servers.
            if self._is_unknown(job):
                folder.remove()
            raise
        except CaikitPtError:
            # It may be there all the same, or another server has accepted it: who asks next takes it over.
            if not self.store.is_shared and self._is_unknown(job):
                folder.remove()
            raise

    def _is_unknown(self, job: Job) -> bool:
        try:
            return self.store.find(job.id) is None
        except StateUnavailable:
            return False

    def _accepted(self, job: Job, folder: JobFolder) -> Job:
        there = folder.job()
        if there is None:
            raise StateUnavailable(f"The training isn't accepted: the files of {job.id} can't be read")
        self.store.add(there)
        known = self._known(job)
        assert known is not None
        return known

    def _warn(self, job: Job, warnings: Iterable[str]) -> None:
        try:
            for warning in warnings:
                self.store.add_event(job.id, kinds.WARNING, {"text": warning})
        except StateUnavailable as error:
            _LOG.warning("warnings of %s are lost: %s", job.id, error)

    def _make_room(self, tenant: str) -> None:
        days = self._settings.retention_days
        if days:
            for id in self.store.delete_ended_before(time.time() - days * _SECONDS_A_DAY):
                self.supervisor.folder(id).remove()
        self.quotas.check_room(tenant)
        # Before anything is written; who is the last is found out by the store.
        self.store.check_queue(self._settings.max_queued)

    def _recover(self) -> None:
        """What isn't a whole submission goes. What was under way is the supervisor's, which has the lease."""
        known = self.store.ids()
        # There may be a million of them, and what they hold is in the store.
        strange = [folder for folder in folders(self._jobs) if folder.directory.name not in known]
        for folder in sorted(strange, key=_submitted):
            self._take_over(folder)
        # What one of many servers doesn't see the others may.
        for job in () if self.store.is_shared else self.store.search(states=WAITING, limit=_ALL):
            if not self.supervisor.folder(job.id).job():
                self.store.move(job.id, ERRORED, [FILES_ARE_GONE], job)

    def _take_over(self, folder: JobFolder) -> None:
        """One that the store doesn't know."""
        job = folder.job()
        if not folder.accepted:
            # Another server may be writing it.
            if not self.store.is_shared or folder.age > _SECONDS_OF_A_LEFTOVER:
                folder.remove()
        elif job is None:
            _LOG.warning("the files of %s in state_dir can't be read", folder.directory.name)
        else:
            _LOG.warning("training %s wasn't in the database, and is taken over from its folder", job.id)
            self.store.add(job)


def _submitted(folder: JobFolder) -> float:
    """In this order they had their turns."""
    job = folder.job()
    return job.submitted if job else 0.0


def _locked(root: Path, shared: bool) -> IO[str]:
    """The lock of a `state_dir`: two servers would run each job twice, but for those that have a `shared`
    database. Raises StateUnavailable."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (root / "lock").open("a")
    except OSError as error:
        raise StateUnavailable(f"state_dir {root} can't be written: {error.strerror}") from error
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline, told = time.monotonic() + _SECONDS_FOR_ANOTHER_SERVER, False
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise StateUnavailable(
                    f"state_dir {root} is in use by another server. Give each server one of its own, or one "
                    "database to all of them."
                ) from None
            if not told:
                text = "state_dir %s is in use by another server: waiting up to %.0f seconds for its end"
                _LOG.warning(text, root, _SECONDS_FOR_ANOTHER_SERVER)
                told = True
            time.sleep(0.2)
