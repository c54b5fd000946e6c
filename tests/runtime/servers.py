"""A server that can be killed and started again on what it has left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from caikit_pt.client import TuningClient
from examples.local_server import SECONDS_TO_START, environment_of, free_port, started, wait_until_serving

QUICK = {"num_virtual_tokens": 4, "num_epochs": 2, "batch_size": 8}
RECORDS = [
    {"input": f"The {thing} is {mood}", "output": answer}
    for thing in ("kettle", "lamp", "desk", "mixer")
    for mood, answer in (("great", "good"), ("awful", "bad"))
]


class Server:
    """A real server process with a `state_dir` and a directory of models of its own."""

    program = "caikit_pt.runtime"

    def __init__(self, directory: Path, **settings: object) -> None:
        self.models, self.state = directory / "models", directory / "state"
        self.models.mkdir(exist_ok=True)
        self.port = free_port()
        self.log = directory / "server.log"
        self._settings = {name: str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> TuningClient:
        """Returns a client when the server is ready."""
        return self.start_within(SECONDS_TO_START)

    def start_within(self, seconds: float) -> TuningClient:
        """Raises SystemExit where it isn't ready by then; it goes on."""
        environment = environment_of(self.port, self.models, self.state, self._settings)
        self._process = started(environment, self.log, module=self.program, mode="a")
        wait_until_serving(self._process, self.port, seconds)
        return TuningClient(f"localhost:{self.port}")

    def kill(self) -> None:
        """As the kernel does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(60)
        return time.monotonic() - began

    def close(self) -> None:
        """However it stands."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def workers(self) -> list[psutil.Process]:
        """The processes of jobs, whoever has started them."""
        return [process for process in psutil.process_iter() if _job_of(process, self.state / "jobs")]

    def workers_of(self, id: str) -> list[psutil.Process]:
        """Those of one job: one, but where a node lives on that was taken for dead."""
        return [process for process in self.workers() if _job_of(process, self.state / "jobs") == id]

    def worker(self, id: str) -> psutil.Process | None:
        """The process of a job."""
        return next(iter(self.workers_of(id)), None)


class Servers:
    """Those of a test, which all have some `settings` and are stopped at its end."""

    def __init__(self, **settings: object) -> None:
        self._settings, self._made = settings, list[Server]()

    def start(self, directory: Path, **more: object) -> tuple[Server, TuningClient]:
        """One more, with a client when it is ready."""
        server = self.add(directory, **more)
        return server, server.start()

    def add(self, directory: Path, **more: object) -> Server:
        """One that isn't started yet."""
        self._made.append(Server(directory, **{**self._settings, **more}))
        return self._made[-1]

    def close(self) -> None:
        """All of them, however they stand, and what they have begun: in a cluster it would go on."""
        for one in self._made:
            one.close()
            shutil.rmtree(one.state / "jobs", ignore_errors=True)


def processes_of(id: str) -> list[psutil.Process]:
    """Those that train a job, on whatever nodes, in whatever directory they have it."""
    return [
        process
        for process in psutil.process_iter()
        if any(file.parts[-3:] == ("jobs", id, "log.txt") for file in _files_of(process))
    ]


def _job_of(process: psutil.Process, jobs: Path) -> str:
    """The job in the directory `jobs` whose log a process writes, if it is one of trainings."""
    return next((file.parent.name for file in _files_of(process) if file.parent.parent == jobs), "")


def _files_of(process: psutil.Process) -> list[Path]:
    """What it has open, if it is one of trainings."""
    # It may be dying while it is looked at.
    with suppress(psutil.Error):
        if process.name() == "training" or "caikit_pt.runtime.job_process" in process.cmdline():
            return [Path(one.path) for one in process.open_files()]
    return []


def wait_for(seen: Callable[[], object], seconds: float = 60.0) -> None:
    """Until `seen` is true."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def signalled(process: psutil.Process | None, number: signal.Signals) -> bool:
    """Sends a signal; whether there was anybody."""
    try:
        if process is None:
            return False
        process.send_signal(number)
    except psutil.Error:
        return False
    return True
