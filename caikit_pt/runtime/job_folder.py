"""What a job has on disk: the plan with its records, and what each of its runs has.

    job.json             what was accepted; enough to have the job again without the database
    plan.json ...        the plan of its training (plan_files.py, source_plan_files.py)
    runs/                what its runs have (run_folder.py)
    log.txt              what the job's process wrote
    outcome.json         how it ended

When a job has ended, only job.json, log.txt and outcome.json stay: training records are the user's.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from caikit_pt.runtime.job import PROMPT, TERMINAL, Job
from caikit_pt.runtime.json_file import read_json, write_json
from caikit_pt.runtime.making import AnyMaking, Plan, Terms
from caikit_pt.runtime.makings import making_of
from caikit_pt.runtime.run_folder import RunFolder, last_run
from caikit_pt.soft_prompt.publication import sync, to_disk

_JOB, _OUTCOME = "job.json", "outcome.json"
_KEPT = (_JOB, _OUTCOME, "log.txt")
_TRIES_TO_REMOVE, _SECONDS_BETWEEN_TRIES = 5, 0.2
# Written once, at submission; the rest of a job's row changes.
_ACCEPTED = (
    "id",
    "model_name",
    "path",
    "digest",
    "parameters",
    "submitted",
    "tenant",
    "makes",
    "memory",
    "least_memory",
)


class JobFolder:
    """The folder of one job."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log.txt"

    def create(self, job: Job, plan: Plan) -> None:
        """Writes what the job needs; on disk when this returns, and gone where it fails. Raises
        FileExistsError where it is there already."""
        new = self.directory.with_name(f".{job.id}.{uuid.uuid4().hex[:12]}")
        new.mkdir(parents=True, mode=0o700)
        try:
            making_of(job.makes).write(plan, new)
            accepted = {name: value for name, value in asdict(job).items() if name in _ACCEPTED}
            write_json(new / _JOB, accepted)
            to_disk(new)
            self._name(new)
            sync(self.directory.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _name(self, new: Path) -> None:
        try:
            new.rename(self.directory)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(error.errno, os.strerror(error.errno), self.directory.name) from None
            raise

    @property
    def age(self) -> float:
        """Seconds since something was last added to it or removed; 0 where it is gone."""
        try:
            return time.time() - self.directory.stat().st_mtime
        except OSError:
            return 0.0

    def plan(self) -> Any:
        """The plan as it was accepted.

        Raises BaseModelMismatch where the base model has changed since, CaikitPtError where files are gone.
        """
        return self._making.read(self.directory)

    def run(self, fence: int) -> RunFolder:
        """What the run with this number has."""
        return RunFolder(self.directory, fence)

    def make(self, artifact: Path, terms: Terms) -> None:
        """Trains what the plan says, into `artifact`. Raises what `plan` does, and what ends a training."""
        self._making.make(self.plan(), artifact, terms)

    @property
    def _making(self) -> AnyMaking:
        job = self.job()
        return making_of(job.makes if job else PROMPT)

    @property
    def accepted(self) -> bool:
        """Whether it was ever a whole submission."""
        return not self.directory.name.startswith(".") and (self.directory / _JOB).exists()

    def job(self) -> Job | None:
        """What was accepted, in the state that outcome.json tells; None where this is no job's folder."""
        try:
            accepted = read_json(self.directory / _JOB)
            # Jobs that were queued by a release without it have no tenant, and make a prompt.
            accepted = {"tenant": "", "makes": PROMPT, "memory": 0, "least_memory": 0, **accepted}
            job = Job(**{name: accepted[name] for name in _ACCEPTED}, fence=last_run(self.directory))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            outcome = read_json(self.directory / _OUTCOME)
        except (OSError, ValueError):
            return job
        return Job(**{**_values(job), **outcome})

    def end(self, job: Job) -> None:
        """Notes how the job has ended, and lets go of all that only its training needed."""
        if job.state not in TERMINAL:
            raise ValueError(f"{job.id} is {job.state}")
        told = {"state": job.state, "reasons": list(job.reasons), "ended": job.ended, "started": job.started}
        try:
            write_json(self.directory / _OUTCOME, told)
        finally:
            # What records are in goes first, and nothing keeps the rest.
            left = sorted(self.directory.iterdir(), key=Path.is_dir)
            errors = [error for path in left if path.name not in _KEPT and (error := _removed(path))]
        if errors:
            raise errors[0]

    def remove(self) -> None:
        """The whole folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _removed(path: Path) -> OSError | None:
    """What it failed with, at the last try: the process of a run may leave a last file while it ends."""
    for left in reversed(range(_TRIES_TO_REMOVE)):
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            break
        except OSError as error:
            if not left:
                return error
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return None


def _values(job: Job) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in fields(job)}


def folders(root: Path) -> Iterator[JobFolder]:
    """The folders of all jobs under `root`."""
    if root.is_dir():
        yield from (JobFolder(path) for path in sorted(root.iterdir()) if path.is_dir())
