"""A helper of a training (tuning/crew.py), as who leads sees it: what it is told, and whether it waits.

A JSON object a line; it answers each with a line when it waits for the next.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

READY = "ready"
# Who hears that a group is over is free at once, unless it computes; who isn't by the second is stuck.
_SECONDS_TO_PART, _SECONDS_TO_BE_STUCK = 1.0, 120.0
# One that others don't reach isn't asked for so long, and then twice as long.
_SECONDS_TO_REST = 30.0
# The key of the last command.
END = "end"


class Helper:
    """One that hears `commands`, and answers in `answers`. `host`: where it reaches who leads; empty: both
    are on one machine."""

    def __init__(self, commands: IO[str], answers: IO[str], end: Callable[[], None], host: str = "") -> None:
        self.host, self.end = host, end
        # Whether it still answers.
        self.lives = True
        self._commands, self._waits, self._loads = commands, threading.Event(), False
        self._rests_until, self._pause = 0.0, _SECONDS_TO_REST
        # When the group was over that it was in last.
        self._parted: float | None = None
        threading.Thread(target=self._listen, args=(answers,), name="helper", daemon=True).start()

    @property
    def is_free(self) -> bool:
        """Whether it waits to join a group."""
        rests = time.monotonic() < self._rests_until
        return self._waits.is_set() and self._loads and self.lives and not rests

    @property
    def is_late(self) -> bool:
        """Whether it hasn't been free soon after its group was over."""
        return self._is_apart_for(_SECONDS_TO_PART)

    @property
    def is_stuck(self) -> bool:
        """Whether it hasn't been free for long since."""
        return self._is_apart_for(_SECONDS_TO_BE_STUCK)

    def load(self, kernels: Callable[[], str] = str) -> None:
        """Its base model, if it hasn't yet. `kernels` says what who leads has found to be fastest, where the
        helper may not see it."""
        if not self._loads:
            self._loads = True
            self._tell({"kernels": kernels()})

    def rest(self) -> None:
        """It couldn't join: others go on without for a while."""
        self._rests_until = time.monotonic() + self._pause
        self._pause *= 2

    def let_go(self) -> None:
        """It isn't needed any more."""
        self._tell({END: True})
        self.end()

    def join(self, **group: Any) -> None:
        """Those who meet there."""
        self._waits.clear()
        self._parted = None
        self._tell(group)

    def part(self) -> None:
        """Its group is over."""
        self._parted = time.monotonic()

    def _is_apart_for(self, seconds: float) -> bool:
        return self._parted is not None and not self.is_free and time.monotonic() > self._parted + seconds

    def _tell(self, command: Mapping[str, Any]) -> None:
        """Who has ended hears nothing."""
        with suppress(OSError, ValueError):
            self._commands.write(json.dumps(command) + "\n")
            self._commands.flush()

    def _listen(self, answers: IO[str]) -> None:
        with suppress(OSError, ValueError), answers:
            for line in answers:
                if line.strip() == READY:
                    self._waits.set()
        self.lives = False
        self.end()
