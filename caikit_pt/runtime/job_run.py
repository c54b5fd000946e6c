"""One job in a thread of its process: its training, what is told of it, and how it ends."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caikit_pt.errors import (
    CaikitPtError,
    OutOfMemory,
    StateUnavailable,
    TrainingFailed,
    TrainingInterrupted,
)
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.helper_processes import HelperProcesses
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.making import Terms
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.reports import BROKEN, FAILED, FINISHED, INTERRUPTED, Report, Reporter
from caikit_pt.runtime.run_folder import last_run
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.failure import explained, told
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots

_LOG = logging.getLogger(__name__)
_SECONDS_TO_LEAVE = 15.0
_SECONDS_BETWEEN_LOOKS = 1.0
# Between two reports of progress: the share of the time so far, but no less and no more.
_PROGRESS_SHARE, _LEAST_SECONDS, _MOST_SECONDS = 0.001, 0.5, 10.0


class JobRun:
    """One job in its thread."""

    def __init__(self, reports: Reporter, order: Order) -> None:
        self.id = order.job
        self.thread = threading.Thread(target=self._run, name=order.job, daemon=True)
        self._reports, self._order = reports, order
        self._folder = JobFolder(Path(order.folder))
        self._files = self._folder.run(order.fence)
        self._snapshots = Snapshots(self._files.snapshots, order.seconds, self._kept, order.told)
        self._next, self._points = 0.0, list[list[float | None]]()

    def stop(self) -> None:
        """At the next update, behind a snapshot."""
        self._snapshots.stop.set()

    def _run(self) -> None:
        try:
            with self._alone(), told():
                self._files.begin()
                self._train()
            self._tell(FINISHED)
        except TrainingInterrupted:
            self._tell(INTERRUPTED)
        except (TrainingFailed, OutOfMemory, StateUnavailable) as error:
            _LOG.exception("the training failed")
            self._tell(BROKEN, text=str(error))
        except CaikitPtError as error:
            _LOG.info("the training ended early", exc_info=True)
            self._tell(FAILED, text=str(error))
        except BaseException as error:  # whatever ends a job is told, and ends nothing else
            _LOG.exception("the training was ended")
            self._tell(BROKEN, text=str(explained(error)))

    def leave_to_others(self) -> None:
        """Stops when a later run of the job is there, or it has ended and its files are gone."""
        was_there = False
        while self.thread.is_alive():
            is_there = self._files.directory.is_dir()
            if last_run(self._folder.directory) > self._order.fence or (was_there and not is_there):
                self.stop()
                return
            was_there = is_there
            self.thread.join(_SECONDS_BETWEEN_LOOKS)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """In a cluster the server makes the directory: where it is gone, nobody waits for the run."""
        if self._order.alone:
            yield
            return
        with nullcontext() if self._order.shared else _alone_with(self._folder):
            self._files.directory.mkdir(parents=True, exist_ok=True)
            yield

    def _train(self) -> None:
        if self._files.artifact.is_dir():
            return
        self._tell(kinds.PHASE, phase="loading")
        with self._crew() as crew:
            terms = Terms(
                device=self._order.device,
                joined=self._order.joined,
                crew=crew,
                snapshots=self._snapshots,
                begun=lambda phase: self._tell(kinds.PHASE, phase=phase),
                updated=self._progress,
                validated=self._validated,
            )
            self._folder.make(self._files.artifact, terms)

    @contextmanager
    def _crew(self) -> Iterator[Crew | None]:
        """Whose processes begin now, and end with it."""
        order = self._order
        if order.workers == 1:
            yield None
            return
        helpers = HelperProcesses(
            order.workers - order.elsewhere - 1,
            self._folder.directory,
            order.device,
            self._files.directory,
            order.elsewhere,
            self._files.calls,
        )
        try:
            yield Crew(order.workers, helpers)
        finally:
            helpers.close()

    def _progress(self, progress: Progress) -> None:
        """A report now and then, with all losses since the last."""
        self._points.append([progress.step, _finite(progress.loss)])
        if time.monotonic() < self._next and progress.step < progress.steps:
            return
        pause = min(_MOST_SECONDS, max(_LEAST_SECONDS, _PROGRESS_SHARE * progress.seconds))
        self._next = time.monotonic() + pause
        report = Report(self.id, kinds.PROGRESS, {**as_dict(progress), "points": self._points})
        if self._reports.send(report, may_be_dropped=True):
            self._points = []

    def _validated(self, found: Validated) -> None:
        scores = {name: _finite(value) for name, value in found.scores.items()}
        self._tell(kinds.VALIDATION, **{**asdict(found), "scores": scores})

    def _kept(self, step: int, seconds: float) -> None:
        self._tell(kinds.SNAPSHOT, step=step, seconds=round(seconds, 4))

    def _tell(self, kind: str, **data: Any) -> None:
        self._reports.send(Report(self.id, kind, data))


def as_dict(progress: Progress) -> dict[str, float | str | None]:
    """Plain values for an event; None for what is no finite number."""
    seconds = max(progress.seconds, 1e-9)
    return {
        "step": progress.step,
        "steps": progress.steps,
        "epoch": progress.epoch,
        "loss": _finite(progress.loss),
        "validation_loss": _finite(progress.validation_loss),
        "learning_rate": progress.learning_rate,
        "samples_per_second": progress.samples / seconds,
        "tokens_per_second": progress.tokens / seconds,
        "seconds": progress.seconds,
        "eta_seconds": progress.eta_seconds,
        "phase": progress.phase,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


@contextmanager
def _alone_with(folder: JobFolder) -> Iterator[None]:
    """While another process of this machine is still at the job, this one waits."""
    with (folder.directory / "lock").open("w") as lock:
        deadline = time.monotonic() + _SECONDS_TO_LEAVE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("another process is still at this job") from None
                time.sleep(0.1)
        yield
