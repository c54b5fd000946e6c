"""A process of the server's own in which jobs are trained, and the spare one that the next job gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import caikit_pt
from caikit_pt.runtime.reports import Report, received

_AFTER_A_DEATH = (
    "Where no attempt is left, submit it again; where memory is short, with shorter maximum lengths"
)
# oneDNN and the layer of torch above it keep code and scratch space for each of 1,024 shapes of products, and
# hardly two forward passes have the same. With fewer a training takes as long, and half the memory.
_NATIVE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "64"}


class Child:
    """A process with one job, or, where trainings are joined, with those of one base model."""

    def __init__(self) -> None:
        """Starts it. Raises OSError."""
        root = str(Path(caikit_pt.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
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
        self.killed = False
        # No job may be given to it any more.
        self.over = False

    @property
    def lives(self) -> bool:
        """Whether it hasn't ended."""
        return self._process.poll() is None

    def command(self, **command: Any) -> None:
        """Raises OSError where the process is gone, or was told to end."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise BrokenPipeError("it was told to end")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Whatever it does, it keeps a snapshot and ends."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """It and all its children, at once."""
        self.killed = self.over = True
        if self.lives:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def reports(self) -> Iterator[Report]:
        """All that it tells, until nothing more will come."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            yield from received(lines)
            self._process.wait()
        self.stop()

    def cause_of_death(self) -> str:
        """Why it has ended, in words; waits until it has."""
        code = self._process.wait()
        if code >= 0:
            return f"Its process ended with exit code {code} before the training was done. {_AFTER_A_DEATH}"
        name = signal.Signals(-code).name
        likely = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
        return f"Its process was ended by {name}{likely}. {_AFTER_A_DEATH}"


class Spare:
    """A process whose libraries are imported already, so that the next job needn't wait for that."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def prepare(self) -> None:
        """Raises OSError."""
        self._child = Child()

    def take(self) -> Child:
        """The spare one, if it lives; another is started in its place. Raises OSError."""
        ready, self._child = self._child, Child()
        return ready if ready is not None and ready.lives else Child()

    def kill(self) -> None:
        """The one that waits."""
        if self._child is not None:
            self._child.kill()
