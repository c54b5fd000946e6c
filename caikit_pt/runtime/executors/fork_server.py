"""The process that those of trainings are copies of: its libraries are imported already, and theirs are, too.

    python -m caikit_pt.runtime.executors.fork_server

Its stdin is a socket. It says a byte when it is ready. Each byte that it gets brings three files: a copy's
stdin and stdout, and a socket on which two ints are told: the copy's number and, once it has ended, its exit
code; until this is closed the number is nobody else's. It ends with its own socket, and its copies live on.
Python's own fork server (multiprocessing) runs the program's main module again in each copy.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
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
NATIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "64"}
# No copy of a process that has asked CUDA for its GPUs can use them: NVML is asked instead.
_UNTOUCHED_GPUS = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


# A copy is there in milliseconds; who has none by then has none.
_SECONDS_TO_COPY = 5.0


@dataclass(frozen=True, slots=True)
class Copy:
    """One, and its ends of the files."""

    pid: int
    commands: IO[str]
    reports: IO[str]
    # Where its exit code is told.
    told: socket.socket


class ForkServer:
    """The process, started when it is first needed, and again where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wishes: socket.socket | None = None
        self._ready, self._closed = False, threading.Event()

    @property
    def closed(self) -> bool:
        """Whether there are no more copies."""
        return self._closed.is_set()

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
                code = self._end()
                raise OSError(f"the process that trainings are copies of ended with {code} as it began")

    def copy(self) -> Copy:
        """A new one, in some milliseconds. Raises OSError where the process isn't ready, or has ended."""
        with self._lock, ExitStack() as theirs, ExitStack() as ours:
            if not self._ready or self._wishes is None:
                raise OSError("the process that trainings are copies of isn't ready")
            stdin, commands = _pipe(theirs, ours)
            reports, stdout = _pipe(ours, theirs)
            told, teller = socket.socketpair()
            ours.enter_context(told)
            theirs.enter_context(teller)
            told.settimeout(_SECONDS_TO_COPY)
            try:
                socket.send_fds(self._wishes, [b"+"], [stdin, stdout, teller.fileno()])
                theirs.close()
                pid = number_from(told)
            except OSError as error:
                code = self._end()
                raise OSError(
                    f"the process that trainings are copies of ended with {code}: {error}"
                ) from error
            if pid is None:
                raise OSError("there can't be another process now: there are too many, or memory is short")
            told.settimeout(None)
            ours.pop_all()
            return Copy(
                pid, os.fdopen(commands, "w", encoding="utf-8"), os.fdopen(reports, encoding="utf-8"), told
            )

    def close(self) -> None:
        """There are no more copies; those that are there live on."""
        self._closed.set()
        # Whoever waits for it hears of its end.
        if self._process is not None:
            self._process.kill()
        with self._lock:
            self._end()

    def _start_if_needed(self) -> socket.socket:
        if self._closed.is_set():
            raise OSError("this server ends")
        if self._wishes is not None and self._process is not None and self._process.poll() is None:
            return self._wishes
        self._end()
        root = str(Path(caikit_pt.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        wishes, theirs = socket.socketpair()
        with ExitStack() as unless_started, theirs:
            unless_started.enter_context(wishes)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **NATIVE_CACHES,
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                # Ctrl-C on the server's terminal isn't one for trainings. Not a session of its own: the
                # kernel shares CPUs out by session (autogroup), unevenly at times.
                process_group=0,
            )
            unless_started.pop_all()
        self._wishes = wishes
        if self._closed.is_set():
            self._process.kill()
        return wishes

    def _end(self) -> int | None:
        """The exit code of the process, if there was one."""
        self._ready = False
        if self._wishes is not None:
            self._wishes.close()
            self._wishes = None
        if self._process is None:
            return None
        self._process.kill()
        return self._process.wait()


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Its ends, to read from and to write to, which the two of them close."""
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def number_from(told: socket.socket) -> int | None:
    """The next that is told there, when it is; None where nobody is left to tell it."""
    said = told.recv(NUMBER.size)
    return int(NUMBER.unpack(said)[0]) if len(said) == NUMBER.size else None


# ---- in the process ----


def main() -> None:
    """Imports, and makes copies until nobody can wish for one."""
    from caikit_pt.base_model.loading.libraries import import_libraries
    from caikit_pt.runtime import job_process  # noqa: F401

    told = {name: value for name, value in _UNTOUCHED_GPUS.items() if name not in os.environ}
    os.environ.update(told)
    import_libraries()
    for name in told:
        del os.environ[name]
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
            # Where there can't be another process now, who waits for one hears that there is none.
            with suppress(OSError):
                if _fork() == 0:
                    _attend(*files)
            for file in files:
                os.close(file)


def _attend(stdin: int, stdout: int, teller: int) -> None:
    """Makes the copy, and tells of its end; in a process of its own, which ends."""
    try:
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
        with socket.socket(fileno=teller) as telling, suppress(OSError):
            telling.sendall(NUMBER.pack(pid))
            telling.sendall(NUMBER.pack(_exit_code(pid)))
            # Until whoever might send it a signal has heard of it.
            telling.recv(1)
        with suppress(OSError):
            os.waitpid(pid, 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _exit_code(pid: int) -> int:
    """When it has ended. Where that can be known without, it isn't waited for: its number stays its own."""
    if not hasattr(os, "waitid"):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert end is not None, "it is asked to wait"
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def _become(stdin: int, stdout: int) -> None:
    import numpy as np
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
    # What draws without a generator of its own draws otherwise in each.
    torch.seed()
    np.random.seed()
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    job_process.main()


def _fork() -> int:
    with warnings.catch_warnings():
        # Of threads that numpy's OpenBLAS has; it sees to forks itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


if __name__ == "__main__":
    main()
