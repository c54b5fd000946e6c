"""The helpers of a job's process (tuning/crew.py): processes of its machine, each with a device of its own.

Nobody waits for one: a training begins, and goes on, with those that are there.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from caikit_pt.runtime import helper_process
from caikit_pt.tuning.crew import Helpers
from caikit_pt.tuning.group import Group, GroupBroken, meeting_in

_LOG = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
# One that dies so many times without having helped in between isn't begun again.
_TRIES = 3
# Who hears that a group is over is free at once, unless it computes; who isn't by the second is stuck.
_SECONDS_TO_PART, _SECONDS_TO_BE_STUCK = 1.0, 120.0
_NAP = 0.002


class HelperProcesses(Helpers):
    """So many of them for the job in `folder`, whose own process is on `device`; they meet in files of
    `directory`."""

    def __init__(self, count: int, folder: Path, device: str, directory: Path) -> None:
        self._directory, self._met = directory, 0
        self._helpers = [
            _Helper(number, {"folder": str(folder), "device": neighbour(device, number)})
            for number in range(1, count + 1)
        ]
        self._group, self._members = Group(), list[_Helper]()

    def group(self) -> Group:
        """See Helpers."""
        # Who asks again without a loss has been helped.
        for helper in self._members:
            helper.deaths = 0
        is_whole = all(helper.lives for helper in self._members)
        for helper in self._helpers:
            helper.keep()
        if not is_whole or any(helper.is_free for helper in self._helpers):
            self._gather()
        return self._group

    def lost(self, error: GroupBroken) -> None:
        """See Helpers."""
        _LOG.info("a worker is gone: %s", error)
        self._part()

    def close(self) -> None:
        """All end."""
        self._part()
        for helper in self._helpers:
            helper.end()

    def _gather(self) -> None:
        """All who are free form a group."""
        self._part()
        members = [helper for helper in self._helpers if helper.is_free]
        if not members:
            return
        self._members, self._met, size = members, self._met + 1, len(members) + 1
        for rank, helper in enumerate(members, start=1):
            helper.join(store=str(self._store), rank=rank, size=size, host=_LOOPBACK)
        try:
            self._group = Group(meeting_in(self._store, size), 0, size, _LOOPBACK)
        except GroupBroken as error:
            self.lost(error)
            return
        _LOG.info("%d of %d workers compute together", size, len(self._helpers) + 1)

    def _part(self) -> None:
        """The group is over, and who was in it is free soon."""
        with suppress(GroupBroken):
            self._group.tell(b"")
        self._group.leave()
        self._store.unlink(missing_ok=True)
        members, self._group, self._members = self._members, Group(), []
        for helper in members:
            helper.parted = time.monotonic()
        while any(one.lives and not one.is_free and not one.is_late for one in members):
            time.sleep(_NAP)

    @property
    def _store(self) -> Path:
        """Where the last group has met."""
        return self._directory / f"workers-{os.getpid()}-{self._met}"


class _Helper:
    """One, which is begun again where it has died."""

    def __init__(self, number: int, base: Mapping[str, str]) -> None:
        self.deaths = 0
        # When the group was over that it was in last.
        self.parted: float | None = None
        self._number, self._base = number, base
        self._waits, self._has_base = threading.Event(), False
        self._process = _begun(self._waits)

    @property
    def lives(self) -> bool:
        """Whether there is a process."""
        return self._process.poll() is None

    @property
    def is_free(self) -> bool:
        """Whether it waits to join a group."""
        return self._waits.is_set() and self._has_base and self.lives

    @property
    def is_late(self) -> bool:
        """Whether it hasn't been free soon after its group was over."""
        return self._is_apart_for(_SECONDS_TO_PART)

    def keep(self) -> None:
        """Has it load the base model, once who leads has: what is fastest on this machine has been found
        then, and is the same for all. Begins it again where it has died, and ends it where it is stuck."""
        if not self.lives:
            self._begin_again()
        elif not self._has_base:
            self._has_base = True
            self._tell(self._base)
        elif self._is_apart_for(_SECONDS_TO_BE_STUCK):
            self._process.kill()

    def join(self, **group: Any) -> None:
        """Those who meet there."""
        self._waits.clear()
        self.parted = None
        self._tell(group)

    def end(self) -> None:
        """At once."""
        self.deaths = _TRIES
        with suppress(OSError):
            self._process.kill()
            self._process.wait()

    def _is_apart_for(self, seconds: float) -> bool:
        return self.parted is not None and not self.is_free and time.monotonic() > self.parted + seconds

    def _begin_again(self) -> None:
        if self.deaths >= _TRIES:
            return
        self.deaths += 1
        again = "begun again" if self.deaths < _TRIES else "not begun again"
        _LOG.warning(
            "worker %d ended with %s: the others do its share, and it is %s",
            self._number + 1,
            self._process.returncode,
            again,
        )
        if self.deaths < _TRIES:
            self.parted, self._has_base, self._waits = None, False, threading.Event()
            self._process = _begun(self._waits)

    def _tell(self, command: Mapping[str, Any]) -> None:
        """Who has ended hears nothing."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()


def _begun(waits: threading.Event) -> subprocess.Popen[str]:
    """A process, which sets `waits` when it waits for a command."""
    process = subprocess.Popen(
        [sys.executable, "-m", helper_process.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == helper_process.READY:
                waits.set()

    threading.Thread(target=listen, name="helper", daemon=True).start()
    return process


def neighbour(device: str, number: int) -> str:
    """The device of the helper with this number, from 1 on, where who leads is on `device`."""
    kind, _, first = device.partition(":")
    if kind == "cpu":
        return device
    import torch

    return f"{kind}:{(int(first or 0) + number) % max(1, torch.cuda.device_count())}"
