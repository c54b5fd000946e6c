"""Runs the queued jobs, each in a process, and publishes what comes of them.

A job's process can die in any way; that is a reason on this job and nothing else. A job that dies goes on
from its last snapshot, unless it has died `max_attempts` times without getting any further.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caikit_pt
from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import CANCELED, COMPLETED, ERRORED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.reports import BROKEN, ENDS, FAILED, FINISHED, Report, received
from caikit_pt.soft_prompt.history import Verdict
from caikit_pt.soft_prompt.publication import replacing
from caikit_pt.tuning.failure import explained
from caikit_pt.tuning.verdict import in_words

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 1.0
_AFTER_A_DEATH = (
    "Where no attempt is left, submit it again; where memory is short, with shorter maximum lengths"
)
_SECONDS_TO_STOP = 9.0
# How long a joined training, whose process has to live on, may take to leave at an update.
_SECONDS_TO_LEAVE = 3.0
_SECONDS_TO_CANCEL = 5.0
# oneDNN and the layer of torch above it keep code and scratch space for each of 1,024 shapes of products, and
# hardly two forward passes have the same. With fewer a training takes as long, and half the memory.
_NATIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "64"}


@dataclass(frozen=True, slots=True)
class Allowance:
    """How jobs are run; the settings of the same names."""

    slots: int = 1
    checkpoint_seconds: float = 60.0
    max_attempts: int = 3
    join_trainings: bool = False


class _Process:
    """A process with one job, or, where trainings are joined, with those of one base model."""

    def __init__(self) -> None:
        root = str(Path(caikit_pt.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "caikit_pt.runtime.job_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**_NATIVE_CACHES, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # Ctrl-C on the server's terminal isn't one for the training, and a kill takes all its children.
            # Not a session of its own: the kernel shares CPUs out by session (autogroup), unevenly at times.
            process_group=0,
        )
        self.jobs: dict[str, Job] = {}
        self.killed = False
        # No job may be given to it any more.
        self.over = False

    @property
    def lives(self) -> bool:
        """Whether it hasn't ended."""
        return self._child.poll() is None

    def command(self, **command: Any) -> None:
        """Raises OSError where the process is gone."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()

    def stop(self) -> None:
        """Whatever it does, it keeps a snapshot and ends."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()

    def kill(self) -> None:
        """It and all its children, at once."""
        self.killed = self.over = True
        if self.lives:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def reports(self, take: Callable[[Report], None]) -> int:
        """Gives every report to `take` until the process has ended; with what code."""
        assert self._child.stdout is not None
        for report in received(self._child.stdout):
            take(report)
        code = self._child.wait()
        self._child.stdout.close()
        self.stop()
        return code


class Supervisor:
    """Keeps as many jobs running as there are slots, for as long as this process lives."""

    def __init__(
        self, store: JobStore, root: Path, allowance: Allowance, on_published: Callable[[str], None]
    ) -> None:
        self._store, self._root, self._allowance, self._on_published = store, root, allowance, on_published
        self._lock = threading.Condition()
        self._publishing = threading.Lock()
        self._running: dict[str, _Process | None] = {}
        self._canceling: set[str] = set()
        self._devices: dict[str, int] = {}
        # Its libraries are imported already, so that the next job needn't wait for that.
        self._spare: _Process | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._dispatch, name="jobs", daemon=True)

    def start(self) -> None:
        """From now on queued jobs are run."""
        self._spare = _Process()
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the queue."""
        with self._lock:
            self._lock.notify_all()

    def folder(self, id: str) -> JobFolder:
        """Where the files of a job are."""
        return JobFolder(self._root / id)

    def cancel(self, job: Job) -> None:
        """Ends a job, wherever it is; returns when its device is free. One that has ended stays as it is."""
        with self._lock:
            if job.id not in self._running:
                self._end(job, CANCELED)
                return
            self._canceling.add(job.id)
            process = self._running[job.id]
            if process is not None and list(process.jobs) == [job.id]:
                process.kill()
        if process is not None and job.id in process.jobs:
            self._ask_to_leave(process, job)
        with self._lock:
            self._lock.wait_for(lambda: job.id not in self._running, _SECONDS_TO_CANCEL)

    def stop(self) -> None:
        """Every training keeps a snapshot and is queued again. Takes less than ten seconds."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            processes = self._processes()
            if self._spare is not None:
                self._spare.kill()
            self._lock.notify_all()
            for process in processes:
                process.stop()
            self._lock.wait_for(lambda: not self._running, _SECONDS_TO_STOP)
            for process in self._processes():
                process.kill()
            self._lock.wait_for(lambda: not self._running, 1.0)

    # ---- the queue ----

    def _dispatch(self) -> None:
        while True:
            try:
                started = self._start_next()
            except (StateUnavailable, OSError) as error:
                _LOG.warning("no job can be started now: %s", error)
                started = False
            with self._lock:
                if self._stopping:
                    return
                if not started:
                    self._lock.wait(_SECONDS_BETWEEN_TRIES)

    def _start_next(self) -> bool:
        """Whether there was a job, and a slot for it."""
        with self._lock:
            if self._stopping or len(self._running) >= self._allowance.slots:
                return False
            job = self._store.next_queued(besides=list(self._running))
            if job is None or not self._store.move(job.id, RUNNING):
                return False
            self._running[job.id] = None
        try:
            self._run(job)
        except Exception as error:
            _LOG.exception("a job can't be started")
            reason = f"Its process can't be started: {error}"
            self._leave(job, lambda: self._died(job, reason))
        return True

    def _run(self, job: Job) -> None:
        folder = self.folder(job.id)
        with self._lock:
            device, environment = self._place(job)
            company = self._joinable(job)
            process = company or self._new_process()
            process.jobs[job.id] = job
            self._running[job.id] = process
            if job.id in self._canceling:
                process.kill()
        if company is None:
            threading.Thread(target=self._attend, args=(process,), name=f"job {job.id}", daemon=True).start()
        try:
            process.command(
                run=job.id,
                folder=str(folder.directory),
                device=device,
                environment=environment,
                joined=self._allowance.join_trainings,
                seconds=self._allowance.checkpoint_seconds,
            )
        except OSError:
            _LOG.info("the process of %s is gone before it began", job.id)

    def _new_process(self) -> _Process:
        """The spare one, if it lives; another is started in its place."""
        ready, self._spare = self._spare, _Process()
        return ready if ready is not None and ready.lives else _Process()

    def _joinable(self, job: Job) -> _Process | None:
        """The process of another training of the same base model, type and device."""
        for process in self._processes() if self._allowance.join_trainings else ():
            if not process.over and any(_key(other) == _key(job) for other in process.jobs.values()):
                return process
        return None

    def _place(self, job: Job) -> tuple[str, Mapping[str, str]]:
        """The device of a job, and what its process has to see. Who names no GPU gets one of its own."""
        device = str(job.parameters["device"])
        named = job.parameters["origins"].get("device") == "request"
        if not device.startswith("cuda") or named or self._allowance.join_trainings:
            return device, {}
        taken = set(self._devices.values())
        free = self._devices[job.id] = next(number for number in range(len(taken) + 1) if number not in taken)
        return "cuda:0", {"CUDA_VISIBLE_DEVICES": _visible(free)}

    def _processes(self) -> list[_Process]:
        return list({id(one): one for one in self._running.values() if one is not None}.values())

    # ---- what a process tells ----

    def _attend(self, process: _Process) -> None:
        """Until it has ended."""
        code = process.reports(lambda report: self._take(process, report))
        with self._lock:
            process.over = True
            left = list(process.jobs.values())
        for job in left:
            self._leave(job, lambda job=job: self._lost(job, process, code))  # type: ignore[misc]

    def _take(self, process: _Process, report: Report) -> None:
        job = process.jobs.get(report.job)
        if job is None:
            return
        if report.kind not in ENDS:
            self._note(job, report)
            return
        with self._lock:
            process.jobs.pop(job.id)
            if not process.jobs:
                process.over = True
                process.stop()
        self._leave(job, lambda: self._ended(job, report))

    def _note(self, job: Job, report: Report) -> None:
        if report.kind == kinds.WARNING:
            _LOG.warning("training of %s: %s", job.model_name, report.data["text"])
        try:
            self._store.add_event(job.id, report.kind, report.data)
            if report.kind == kinds.SNAPSHOT:
                self._store.forget_deaths(job.id)
        except StateUnavailable as error:
            _LOG.warning("an event of %s is lost: %s", job.id, error)

    def _ended(self, job: Job, report: Report) -> None:
        if report.kind == FINISHED:
            self._publish(job)
        elif job.id in self._canceling:
            self._end(job, CANCELED)
        elif report.kind == FAILED:
            self._end(job, ERRORED, [report.data["text"]])
        elif report.kind == BROKEN:
            self._died(job, report.data["text"])
        else:
            self._store.move(job.id, QUEUED)

    def _lost(self, job: Job, process: _Process, code: int) -> None:
        """The process has ended without a word on this job."""
        if job.id in self._canceling:
            self._end(job, CANCELED)
        elif self._stopping or process.killed:
            self._store.move(job.id, QUEUED)
        else:
            self._died(job, _in_words(code))

    def _died(self, job: Job, reason: str) -> None:
        _LOG.warning("training of %s: %s", job.model_name, reason)
        deaths = self._store.count_death(job.id, reason)
        if deaths < self._allowance.max_attempts:
            self._store.move(job.id, QUEUED)
            return
        told = self._store.events(job, kinds=[kinds.DEATH], limit=10_000)
        self._end(job, ERRORED, [event.data["text"] for event in told])

    def _leave(self, job: Job, finish: Callable[[], None]) -> None:
        """Does `finish`, and frees the job's slot whatever comes of that: later jobs wait for it."""
        try:
            try:
                self._insist(job, finish)
            except Exception as error:
                _LOG.exception("the end of a job failed")
                reason = str(explained(error))
                self._insist(job, lambda: self._store.move(job.id, ERRORED, [reason]))
        finally:
            with self._lock:
                self._running.pop(job.id, None)
                self._devices.pop(job.id, None)
                self._canceling.discard(job.id)
                self._lock.notify_all()

    def _insist(self, job: Job, note: Callable[[], object]) -> None:
        """Does `note` until the store takes it."""
        while True:
            try:
                note()
                return
            except StateUnavailable as error:
                _LOG.warning("the end of %s can't be noted yet: %s", job.id, error)
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def _end(self, job: Job, state: str, reasons: Sequence[str] = ()) -> None:
        if not self._store.move(job.id, state, reasons):
            return
        ended = self._store.find(job.id)
        assert ended is not None
        try:
            self.folder(job.id).end(ended)
        except OSError as error:
            _LOG.warning("files of %s remain in state_dir: %s", job.id, error)

    # ---- publication ----

    def _publish(self, job: Job) -> None:
        """By one rename; tried again for as long as the disk won't have it."""
        self._store.add_event(job.id, kinds.PHASE, {"phase": "publishing"})
        made = self.folder(job.id).artifact
        try:
            while not self._published(job, made):
                time.sleep(_SECONDS_BETWEEN_TRIES)
        except _Canceled:
            self._end(job, CANCELED)
            return
        except _Stopped:
            self._store.move(job.id, QUEUED)
            return
        self._on_published(job.path)
        verdict = dict(Verdict(made))
        self._store.add_event(job.id, kinds.VERDICT, verdict)
        self._store.add_event(job.id, kinds.ARTIFACT, {"model_name": job.model_name, "path": job.path})
        warnings = self._store.events(job, kinds=[kinds.WARNING], limit=1000)
        told_before = list(dict.fromkeys(event.data["text"] for event in warnings))
        self._end(job, COMPLETED, [*told_before, *in_words(verdict)])

    def _published(self, job: Job, made: Path) -> bool:
        """Whether the disk took it. Raises _Canceled and _Stopped, as long as nothing is changed."""
        try:
            with self._publishing, replacing(Path(job.path), mark=job.id) as new:
                for file in made.iterdir():
                    shutil.copy(file, new)
                self._check_wanted(job)
        except OSError as error:
            text = f"Waiting to be published: {error.strerror or error}"
            if text not in (event.data["text"] for event in self._store.events(job, kinds=[kinds.WARNING])):
                self._store.add_event(job.id, kinds.WARNING, {"text": text})
            self._check_wanted(job)
            return False
        return True

    def _check_wanted(self, job: Job) -> None:
        if job.id in self._canceling:
            raise _Canceled
        if self._stopping:
            raise _Stopped

    def _ask_to_leave(self, process: _Process, job: Job) -> None:
        """The others of the process go on; if that takes long it is killed, and they go on from snapshots."""
        try:
            process.command(cancel=job.id)
        except (OSError, ValueError):
            return
        with self._lock:
            if not self._lock.wait_for(lambda: job.id not in self._running, _SECONDS_TO_LEAVE):
                process.kill()


class _Canceled(Exception):
    """A job was cancelled while it was being published."""


class _Stopped(Exception):
    """The server stops while a job is being published."""


def _key(job: Job) -> tuple[Any, ...]:
    return tuple(job.parameters[name] for name in ("base_model", "torch_dtype", "device"))


def _visible(number: int) -> str:
    """The GPU with this number among those that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number].strip() if seen else str(number)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"Its process ended with exit code {code} before the training was done. {_AFTER_A_DEATH}"
    name = signal.Signals(-code).name
    likely = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
    return f"Its process was ended by {name}{likely}. {_AFTER_A_DEATH}"
