"""The process in which jobs are trained: `python -m caikit_pt.runtime.job_process`.

It takes commands from stdin, a JSON object a line, and reports on stdout (reports.py). When stdin ends,
because the server wants it to or is no more, each training keeps a snapshot and the process ends; so it does
on SIGTERM.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from caikit_pt.base_model.denormals import no_denormals
from caikit_pt.errors import (
    CaikitPtError,
    OutOfMemory,
    StateUnavailable,
    TrainingFailed,
    TrainingInterrupted,
)
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.reports import BROKEN, FAILED, FINISHED, INTERRUPTED, Report, Reporter
from caikit_pt.tuning.failure import explained, told
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuner import Progress, Validated

_LOG = logging.getLogger(__name__)
# From a wish to stop to the end, whatever is under way: SIGTERM's ten seconds less what the server needs.
_SECONDS_TO_STOP = 7.0
_SECONDS_TO_LEAVE = 15.0
# Between two reports of progress: the share of the time so far, but no less and no more.
_PROGRESS_SHARE, _LEAST_SECONDS, _MOST_SECONDS = 0.001, 0.5, 10.0
_LIKELY_TO_BE_KILLED = "500"  # of 1,000: sooner than the server, where memory runs out


class JobProcess:
    """The jobs of this process, a thread for each."""

    def __init__(self, commands: IO[str], output: IO[str]) -> None:
        self._commands = commands
        self.reports = Reporter(output, self._stop)
        self._runs: dict[str, _Run] = {}
        self._stopping = threading.Event()

    def work(self) -> None:
        """Takes commands until there are no more, then stops what still runs."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        self._stopping.wait()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for run in list(self._runs.values()):
            run.stop()
        for run in list(self._runs.values()):
            run.thread.join(max(0.0, deadline - time.monotonic()))
        self.reports.close(1.0)

    def _listen(self) -> None:
        for line in self._commands:
            command = json.loads(line)
            if "run" in command:
                if not self._runs:
                    _settle(Path(command["folder"]), command["environment"])
                del command["environment"]
                run = self._runs[command["run"]] = _Run(self.reports, **command)
                run.thread.start()
            elif command["cancel"] in self._runs:
                self._runs[command["cancel"]].stop()
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()


class _Run:
    """One job in its thread."""

    def __init__(
        self, reports: Reporter, run: str, folder: str, device: str, joined: bool, seconds: float
    ) -> None:
        self.id = run
        self.thread = threading.Thread(target=self._run, name=run, daemon=True)
        self._reports, self._folder = reports, JobFolder(Path(folder))
        self._device, self._joined = device, joined
        self._snapshots = Snapshots(self._folder.snapshots, seconds, self._kept)
        self._next, self._points = 0.0, list[list[float | None]]()

    def stop(self) -> None:
        """At the next update, behind a snapshot."""
        self._snapshots.stop.set()

    def _run(self) -> None:
        try:
            with _alone_with(self._folder), told():
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

    def _train(self) -> None:
        from caikit_pt.module import PeftPromptTuning
        from caikit_pt.tuning.training import Training

        if self._folder.artifact.is_dir():
            return
        plan = self._folder.plan()
        self._tell(kinds.PHASE, phase="loading")
        training = Training(plan, self._device)
        self._tell(kinds.PHASE, phase="training")
        tuned = training.run(self._joined, self._progress, self._validated, self._snapshots)
        PeftPromptTuning(tuned, training.base).save(str(self._folder.artifact))

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
        self._tell(kinds.VALIDATION, step=found.step, epoch=found.epoch, scores=scores, best=found.best)

    def _kept(self, step: int, seconds: float) -> None:
        self._tell(kinds.SNAPSHOT, step=step, seconds=round(seconds, 4))

    def _tell(self, kind: str, **data: Any) -> None:
        self._reports.send(Report(self.id, kind, data))


def as_dict(progress: Progress) -> dict[str, float | None]:
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
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


class Warnings(logging.Handler):
    """Warnings of this project's code become events of the job in whose thread they come."""

    def __init__(self, reports: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reports = reports

    def emit(self, record: logging.LogRecord) -> None:
        self._reports.send(Report(record.threadName or "", kinds.WARNING, {"text": record.getMessage()}))


@contextmanager
def _alone_with(folder: JobFolder) -> Iterator[None]:
    """While another process is still at the job, as one whose server was killed may be, this one waits."""
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


def _import_all() -> None:
    """Before the first command: the job that it brings begins sooner. No GPU is touched."""
    import caikit_pt.module
    import caikit_pt.tuning.training
    from caikit_pt.base_model.pool import import_libraries

    _ = caikit_pt.module, caikit_pt.tuning.training
    import_libraries()


def _settle(folder: Path, environment: Mapping[str, str]) -> None:
    """The process belongs to a job now: the log is the job's, and the GPUs are."""
    os.environ.update(environment)
    with JobFolder(folder).log.open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)


def main() -> None:
    """Reports go where stdout went; what libraries print goes to the log."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_LIKELY_TO_BE_KILLED)
    _import_all()
    # Before any thread is there, so that all of a job's threads reckon alike.
    with no_denormals():
        process = JobProcess(sys.stdin, output)
        logging.getLogger("caikit_pt").addHandler(Warnings(process.reports))
        process.work()
    # Threads that are deep in native code would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
