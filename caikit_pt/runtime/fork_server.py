"""The process that those of trainings are copies of: its libraries are imported already, and theirs are, too.

    python -m caikit_pt.runtime.fork_server

Its stdin is a socket. It says a byte when it is ready. Each byte that it gets brings three files: a copy's
stdin and stdout, and where two ints are told: the copy's number and, once it has ended, its exit code. It
ends with the socket, and its copies live on. Python's own fork server (multiprocessing) runs the program's
main module again in each copy.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO

import caikit_pt

NUMBER = Struct("i")
# What `ps` and `top` call a copy.
_NAME = "training"
# oneDNN and the layer of torch above it keep code and scratch space for each of 1,024 shapes of products, and
# hardly two forward passes have the same. With fewer a training takes as long, and half the memory.
_NATIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "64"}
# No copy of a process that has asked CUDA for its GPUs can use them: NVML is asked instead.
_UNTOUCHED_GPUS = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


@dataclass(frozen=True, slots=True)
class Copy:
    """One, and its ends of the files."""

    pid: int
    commands: IO[str]
    reports: IO[str]
    # The file of its exit code.
    told: int


class ForkServer:
    """The process, started when it is first needed, and again where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wishes: socket.socket | None = None
        self._ready = self._closed = False

    def prepare(self) -> None:
        """It begins to import. Raises OSError."""
        with self._lock:
            self._start_if_needed()

    def wait_until_ready(self) -> None:
        """Some seconds, where it has just been started. Raises OSError where it can't be, or is closed."""
        with self._lock:
            wishes = self._start_if_needed()
            self._ready = self._ready or bool(wishes.recv(1))
            if not self._ready:
                raise OSError("the process that trainings are copies of has ended before it was ready")

    def copy(self) -> Copy:
        """A new one, in some milliseconds where it is ready. Raises OSError."""
        with self._lock, ExitStack() as theirs, ExitStack() as ours:
            wishes = self._start_if_needed()
            (stdin, commands), (reports, stdout), (told, teller) = (os.pipe() for _ in range(3))
            for end in (stdin, stdout, teller):
                theirs.callback(os.close, end)
            for end in (commands, reports, told):
                ours.callback(os.close, end)
            socket.send_fds(wishes, [b"+"], [stdin, stdout, teller])
            theirs.close()
            pid = number_from(told)
            if pid is None:
                raise OSError("the process that trainings are copies of has ended")
            ours.pop_all()
            return Copy(
                pid, os.fdopen(commands, "w", encoding="utf-8"), os.fdopen(reports, encoding="utf-8"), told
            )

    def close(self) -> None:
        """There are no more copies; those that are there live on."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        with self._lock:
            if self._wishes is not None:
                self._wishes.close()

    def _start_if_needed(self) -> socket.socket:
        if self._closed:
            raise OSError("this server ends")
        if self._wishes is not None and self._process is not None and self._process.poll() is None:
            return self._wishes
        if self._wishes is not None:
            self._wishes.close()
        root = str(Path(caikit_pt.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._wishes, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **_NATIVE_CACHES,
                    **_UNTOUCHED_GPUS,
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                # Ctrl-C on the server's terminal isn't one for trainings. Not a session of its own: the
                # kernel shares CPUs out by session (autogroup), unevenly at times.
                process_group=0,
            )
        self._ready = False
        return self._wishes


def number_from(file: int) -> int | None:
    """The next that is told there, when it is; None where nobody is left to tell it."""
    said = os.read(file, NUMBER.size)
    return int(NUMBER.unpack(said)[0]) if len(said) == NUMBER.size else None


# ---- in the process ----


def main() -> None:
    """Imports, and makes copies until nobody can wish for one."""
    from caikit_pt.base_model.loading.libraries import import_libraries
    from caikit_pt.runtime import job_process  # noqa: F401

    import_libraries()
    # What is there now is never looked through again, so that copies go on sharing its memory.
    gc.collect()
    gc.freeze()
    # Whoever attends to a copy is waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=0) as wishes:
        wishes.sendall(b"+")
        while True:
            _, files, *_ = socket.recv_fds(wishes, 1, 3)
            if not files:
                return
            if _fork() == 0:
                _attend(*files)
            for file in files:
                os.close(file)


def _attend(stdin: int, stdout: int, teller: int) -> None:
    """Makes the copy, and tells of its end; in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = _fork()
    if pid == 0:
        os.close(teller)
        _become(stdin, stdout)
    # Before its number is told: a kill is for all its children.
    with suppress(OSError):
        os.setpgid(pid, pid)
    for file in (0, stdin, stdout):
        os.close(file)
    with suppress(OSError):
        os.write(teller, NUMBER.pack(pid))
    # Its number is nobody else's until it is waited for.
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert end is not None
    with suppress(OSError):
        os.write(teller, NUMBER.pack(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status))
    os._exit(0)


def _become(stdin: int, stdout: int) -> None:
    import torch

    from caikit_pt.runtime import job_process

    with suppress(OSError):
        os.setpgid(0, 0)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(_NAME)
    if sys.platform != "linux" or torch.cuda._is_in_bad_fork():
        # A copy isn't safe there: the same from the beginning.
        os.execv(sys.executable, [sys.executable, "-m", job_process.__name__])
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    job_process.main()


def _fork() -> int:
    with warnings.catch_warnings():
        # Of threads that numpy's OpenBLAS has; it sees to forks itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


if __name__ == "__main__":
    main()
