"""A process of the server's own in which jobs are trained."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from caikit_pt.runtime.executors.executor import Run, name_of_signal
from caikit_pt.runtime.executors.fork_server import ForkServer, number_from
from caikit_pt.runtime.order import LEAVE, RUN, Order
from caikit_pt.runtime.reports import Report, received

_AFTER_A_DEATH = (
    "Where no attempt is left, submit it again; where memory is short, with shorter maximum lengths"
)


class Child(Run):
    """It is told by a pipe what to do, and tells by another what happens."""

    def __init__(self, forks: ForkServer) -> None:
        """Starts it. Raises OSError."""
        super().__init__()
        self._process = forks.copy()
        self._ending = threading.Lock()
        self._has_ended = False
        self._code: int | None = None

    @property
    def lives(self) -> bool:
        """Whether nobody has heard of its end yet."""
        return not self._has_ended

    def begin(self, order: Order) -> None:
        """See Run."""
        self._command(RUN, asdict(order))

    def leave(self, id: str) -> None:
        """See Run."""
        self._command(LEAVE, id)

    def _command(self, kind: str, what: Any) -> None:
        if self._process.commands.closed:
            raise BrokenPipeError("it was told to end")
        self._process.commands.write(json.dumps({kind: what}) + "\n")
        self._process.commands.flush()

    def stop(self) -> None:
        """See Run."""
        with suppress(OSError):
            self._process.commands.close()

    def kill(self) -> None:
        """See Run."""
        self.killed = self.over = True
        if self.lives:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """See Run. Nobody else finds it."""
        super().let_go()
        self.kill()

    def reports(self) -> Iterator[Report]:
        """See Run."""
        with self._process.reports as lines:
            yield from received(lines)
            self._wait()
        self.stop()

    def cause_of_death(self) -> str:
        """See Run."""
        code = self._wait()
        if code is None:
            return f"Its process ended before the training was done. {_AFTER_A_DEATH}"
        if code >= 0:
            return f"Its process ended with exit code {code} before the training was done. {_AFTER_A_DEATH}"
        name = name_of_signal(-code)
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
