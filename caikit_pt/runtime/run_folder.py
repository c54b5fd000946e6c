"""What one run of a job has on disk: each has a directory of its own, named by its number, the fence.

    begun                there once everything of the run before is here
    snapshots/           of the training (tuning/snapshot.py)
    artifact/            what was made, until it is published

and, of a run in a cluster, whose files are all that it and the server tell each other:

    order.json           what is to be run
    reports.jsonl        what it tells (reports.py)
    alive                written anew every second
    leave                there when it is to end behind a snapshot
    end.json             the exit code of its process

A run that was given up and lives on, as on a node that was cut off, writes into its own directory, where
nobody looks any more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from caikit_pt.soft_prompt.publication import sync

_RUNS, _BEGUN = "runs", "begun"


class RunFolder:
    """That of the run with number `fence` of the job in `job`."""

    def __init__(self, job: Path, fence: int) -> None:
        self.fence = fence
        self.directory = job / _RUNS / f"{fence:06}"
        self.snapshots = self.directory / "snapshots"
        self.artifact = self.directory / "artifact"
        self.order = self.directory / "order.json"
        self.reports = self.directory / "reports.jsonl"
        self.alive = self.directory / "alive"
        self.leave = self.directory / "leave"
        self.end = self.directory / "end.json"
        self._job = job

    @property
    def job(self) -> str:
        """The id of its job."""
        return self._job.name

    @property
    def begun(self) -> bool:
        """Whether everything of the run before is here."""
        return (self.directory / _BEGUN).exists()

    @property
    def is_last(self) -> bool:
        """Whether no later one was begun."""
        return self.fence >= last_run(self._job)

    def begin(self) -> None:
        """Takes over what the run before has kept, and removes what is left of it: what it writes from now on
        counts for nothing. Raises OSError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for earlier in self._earlier():
            for theirs, own in ((earlier / path.name, path) for path in (self.snapshots, self.artifact)):
                if theirs.is_dir() and not own.exists():
                    os.replace(theirs, own)
            # What is older was left behind by this one.
            if (earlier / _BEGUN).exists():
                break
        (self.directory / _BEGUN).touch()
        sync(self.directory)
        for earlier in runs(self._job):
            if int(earlier.name) < self.fence:
                shutil.rmtree(earlier, ignore_errors=True)

    def _earlier(self) -> Iterator[Path]:
        """The directories of earlier runs, the last first; then that of the job, where an earlier release had
        them."""
        yield from (path for path in runs(self._job) if int(path.name) < self.fence)
        yield self._job


def runs(job: Path) -> list[Path]:
    """The directories of the runs of a job, the last first."""
    found = (job / _RUNS).iterdir() if (job / _RUNS).is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()), key=lambda path: -int(path.name))


def last_run(job: Path) -> int:
    """The number of a job's last run; 0 where there was none."""
    return next((int(path.name) for path in runs(job)), 0)
