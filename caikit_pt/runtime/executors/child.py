"""A process of the server's own in which jobs are trained."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from caikit_pt.runtime.fork_server import ForkServer, number_from
from caikit_pt.runtime.reports import Report, received

_AFTER_A_DEATH = (
    "Where no attempt is left, submit it again; where memory is short, with shorter maximum lengths"
)


class Child:
    """A process with one job, or, where trainings are joined, with those of one base model."""

    def __init__(self, forks: ForkServer) -> None:
        """Starts it. Raises OSError."""
        self._process = forks.copy()
        self._ending = threading.Lock()
        self._has_ended = False
        self._code: int | None = None
        # It was ended, or told to end, from here: that is no death.
        self.killed = self.paused = False
        # No job may be given to it any more.
        self.over = False

    @property
    def lives(self) -> bool:
        """Whether nobody has heard of its end yet."""
        return not self._has_ended

    def command(self, **command: Any) -> None:
        """Raises OSError where the process is gone, or was told to end."""
        if self._process.commands.closed:
            raise BrokenPipeError("it was told to end")
        self._process.commands.write(json.dumps(command) + "\n")
        self._process.commands.flush()

    def stop(self) -> None:
        """Whatever it does, it keeps a snapshot and ends."""
        with suppress(OSError):
            self._process.commands.close()

    def kill(self) -> None:
        """It and all its children, at once."""
        self.killed = self.over = True
        if self.lives:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def reports(self) -> Iterator[Report]:
        """All that it tells, until nothing more will come."""
        with self._process.reports as lines:
            yield from received(lines)
            self._wait()
        self.stop()

    def cause_of_death(self) -> str:
        """Why it has ended, in words; waits until it has."""
        code = self._wait()
        if code is None:
            return f"Its process ended before the training was done. {_AFTER_A_DEATH}"
        if code >= 0:
            return f"Its process ended with exit code {code} before the training was done. {_AFTER_A_DEATH}"
        name = signal.Signals(-code).name
        likely = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
        return f"Its process was ended by {name}{likely}. {_AFTER_A_DEATH}"

    def _wait(self) -> int | None:
        """Until it has ended; its exit code, where anybody was left to tell it."""
        with self._ending:
            if not self._has_ended:
                self._code = number_from(self._process.told)
                self._has_ended = True
                self._process.told.close()
            return self._code
