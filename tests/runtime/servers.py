"""A server that can be killed and started again on what it has left behind."""

from __future__ import annotations

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
        """The processes of jobs."""
        made = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in made if _is_of_jobs(process)]

    def worker(self, id: str) -> psutil.Process | None:
        """The process of a job, as its lock tells."""
        lock = self.state / "jobs" / id / "lock"
        return next((child for child in self.workers() if _has_opened(child, lock)), None)


def _is_of_jobs(process: psutil.Process) -> bool:
    """It may be dying while it is looked at."""
    with suppress(psutil.Error):
        return process.name() == "training"
    return False


def _has_opened(process: psutil.Process, file: Path) -> bool:
    with suppress(psutil.Error):
        return any(Path(one.path) == file for one in process.open_files())
    return False


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
