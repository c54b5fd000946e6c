"""What one run of a job has on disk: each has a directory of its own, named by its number, the fence.

    begun                there once everything that the run before had kept is here, too; newer than that
    snapshots/           of the training (tuning/snapshot.py)
    artifact/            what was made, until it is published
    workers-*            where those meet that share a training (helper_processes.py)
    calls.json           where helpers from other machines call (helper_calls.py)
    helpers-*.log        what these have written, where they see this directory

and, of a run in a cluster, whose files are all that it and the server tell each other:

    order.json           what is to be run
    reports.jsonl        what it tells (reports.py)
    alive                written anew every second
    leave                not empty when it is to end behind a snapshot
    end.json             the exit code of its process, and what it said last
    claimed              there once a process keeps it: another one of this number has nothing to do

A run that was given up and lives on, as on a node that was cut off, writes into its own directory, where
nobody looks any more. That of the next one has copies: on a shared disk a directory that is renamed is still
the one that it was to whoever had it open.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from caikit_pt.errors import StateUnavailable
from caikit_pt.soft_prompt.publication import sync

_TRIES_TO_COPY, _SECONDS_BETWEEN_TRIES = 3, 1.5
_RUNS, _BEGUN, _CLAIMED = "runs", "begun", "claimed"


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
        self.calls = self.directory / "calls.json"
        self.job_folder = job

    @property
    def job(self) -> str:
        """The id of its job."""
        return self.job_folder.name

    @property
    def is_last(self) -> bool:
        """Whether it is there, and no later one is."""
        return self.directory.is_dir() and self.fence >= last_run(self.job_folder)

    @property
    def has_begun(self) -> bool:
        """Whether it has all that the run before had kept."""
        return (self.directory / _BEGUN).exists()

    @property
    def has_got_further(self) -> bool:
        """Whether it has kept something that the run before hadn't, or nothing was left to train."""
        if self.artifact.is_dir():
            return True
        with suppress(OSError):
            began = (self.directory / _BEGUN).stat().st_mtime_ns
            # Copies are as old as what they are of.
            return any(path.stat().st_mtime_ns > began for path in self.snapshots.glob("[0-9]*.json"))
        return False

    @property
    def is_to_leave(self) -> bool:
        """Whether it is to end behind a snapshot."""
        return _says_something(self.leave)

    @property
    def has_ended(self) -> bool:
        """Whether its process has, as its keeper tells."""
        return _says_something(self.end)

    def claim(self) -> bool:
        """Whether it is the caller's now, and was nobody's. Raises OSError."""
        try:
            os.close(os.open(self.directory / _CLAIMED, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def begin(self) -> None:
        """Takes over what the last run that began has kept, and removes what is left of that: what it writes
        from now on counts for nothing. Raises OSError, and StateUnavailable where a later run is there."""
        for left in reversed(range(_TRIES_TO_COPY)):
            try:
                self._take_over()
                break
            except OSError:
                if not left:
                    raise
                # The run before may live, and write, until it sees that this one is there.
                time.sleep(_SECONDS_BETWEEN_TRIES)
        self.snapshots.mkdir(exist_ok=True)
        if not self.is_last:
            raise StateUnavailable("a later run of this job is under way")
        (self.directory / _BEGUN).touch()
        sync(self.directory)
        for earlier in runs(self.job_folder):
            if int(earlier.name) < self.fence:
                shutil.rmtree(earlier, ignore_errors=True)

    def _take_over(self) -> None:
        for kept, own in self._left():
            if kept.is_dir() and not own.exists():
                new = own.with_name(f".{own.name}.new")
                shutil.rmtree(new, ignore_errors=True)
                shutil.copytree(kept, new)
                os.replace(new, own)

    def _left(self) -> Iterator[tuple[Path, Path]]:
        """What the run before has, beside what it is to be here. One that died while it began had only
        copies; an earlier release had no runs."""
        earlier = (path for path in runs(self.job_folder) if int(path.name) < self.fence)
        before = next((path for path in earlier if (path / _BEGUN).exists()), self.job_folder)
        yield from ((before / own.name, own) for own in (self.snapshots, self.artifact))


def runs(job: Path) -> list[Path]:
    """The directories of the runs of a job, the last first."""
    found = (job / _RUNS).iterdir() if (job / _RUNS).is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()), key=lambda path: -int(path.name))


def last_run(job: Path) -> int:
    """The number of a job's last run; 0 where there was none."""
    return next((int(path.name) for path in runs(job)), 0)


def _says_something(file: Path) -> bool:
    with suppress(OSError):
        return bool(file.read_bytes())
    return False
