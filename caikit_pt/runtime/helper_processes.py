"""The helpers of a job's process (tuning/crew.py): processes of its machine and, where there are to be some,
of others, each with a device of its own.

Nobody waits for one: a training begins, and goes on, with those that are there.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from caikit_pt.base_model.layers.fastest import kernels_here
from caikit_pt.runtime import helper_process
from caikit_pt.runtime.helper import Helper
from caikit_pt.runtime.helper_calls import HelperCalls, Line
from caikit_pt.tuning.crew import Helpers
from caikit_pt.tuning.group import Group, GroupBroken, meeting, meeting_in

_LOG = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
# One that dies so many times without having helped in between isn't begun again.
_TRIES = 3
_NAP = 0.002


class HelperProcesses(Helpers):
    """So many of them for the job in `folder`, whose own process is on `device`; they meet in files of
    `directory`. Besides `elsewhere`, on other machines, who call as a file `calls` says."""

    def __init__(
        self,
        count: int,
        folder: Path,
        device: str,
        directory: Path,
        elsewhere: int = 0,
        calls: Path | None = None,
    ) -> None:
        self._directory, self._met, self._count = directory, 0, count + elsewhere
        self._own = [_Own(number, [str(folder), neighbour(device, number)]) for number in range(1, count + 1)]
        self._others = list[Helper]()
        self._calls = self._called(calls) if elsewhere and calls else None
        self._group, self._members = Group(), list[Helper]()

    def group(self) -> Group:
        """See Helpers."""
        # Who asks again without a loss has been helped.
        for own in self._own:
            if own.helper in self._members:
                own.deaths = 0
        is_whole = all(helper.lives for helper in self._members)
        self._keep()
        if not is_whole or self._is_joined():
            self._gather()
        return self._group

    def lost(self, error: GroupBroken) -> None:
        """See Helpers."""
        _LOG.info("a worker is gone: %s", error)
        self._part()

    def close(self) -> None:
        """All end."""
        if self._calls:
            self._calls.close()
        self._part()
        for own in self._own:
            own.end()
        for helper in list(self._others):
            helper.let_go()

    @property
    def _free(self) -> list[Helper]:
        """No more than there are to be: of those that call there may be one too many, where another was
        given up."""
        helpers = [*(own.helper for own in self._own), *list(self._others)]
        return list(islice((one for one in helpers if one.is_free), self._count))

    def _is_joined(self) -> bool:
        """Whether there is somebody for the group."""
        return len(self._members) < self._count and bool(self._free)

    def _called(self, file: Path) -> HelperCalls | None:
        """The training goes on without those who can't call."""
        try:
            return HelperCalls(file, self._answered)
        except OSError as error:
            _LOG.warning("nobody helps from other machines: %s", error)
            return None

    def _answered(self, line: Line) -> None:
        self._others.append(Helper(line.writes, line.reads, line.close, line.host))

    def _keep(self) -> None:
        """Has them load the base model, once who leads has: what is fastest on this machine has been found
        then, and is the same for all."""
        for own in self._own:
            own.keep()
        for helper in list(self._others):
            if helper.is_stuck:
                helper.end()
            if not helper.lives:
                self._others.remove(helper)
            helper.load(kernels_here)

    def _gather(self) -> None:
        """All who are free form a group."""
        self._part()
        members = self._free
        if not members:
            return
        self._members, size = members, len(members) + 1
        host = next((one.host for one in members if one.host), "")
        try:
            if host:
                store, port = meeting(host, size)
                place: dict[str, str | int] = {"host": host, "port": port}
            else:
                self._met += 1
                store, place = meeting_in(self._store, size), {"host": _LOOPBACK, "file": str(self._store)}
            for rank, helper in enumerate(members, start=1):
                helper.join(rank=rank, size=size, **place)
            self._group = Group(store, 0, size, host or _LOOPBACK)
        except GroupBroken as error:
            self.lost(error)
            for helper in members:
                if helper.host:
                    helper.rest()
            return
        _LOG.info("%d of %d workers compute together", size, self._count + 1)

    def _part(self) -> None:
        """The group is over, and who was in it is free soon."""
        with suppress(GroupBroken):
            self._group.tell(b"")
        self._group.leave()
        self._store.unlink(missing_ok=True)
        members, self._group, self._members = self._members, Group(), []
        for helper in members:
            helper.part()
        while any(one.lives and not one.is_free and not one.is_late for one in members):
            time.sleep(_NAP)

    @property
    def _store(self) -> Path:
        """Where the last group has met that was of this machine."""
        return self._directory / f"workers-{os.getpid()}-{self._met}"


class _Own:
    """One of this machine, which is begun again where it has died."""

    def __init__(self, number: int, arguments: list[str]) -> None:
        self.deaths = 0
        self._number, self._arguments = number, arguments
        self._begin()

    def keep(self) -> None:
        """See `HelperProcesses._keep`; one that is stuck is ended."""
        if self._process.poll() is not None:
            self.helper.lives = False
            self._begin_again()
        elif self.helper.is_stuck:
            self._process.kill()
        else:
            self.helper.load()

    def end(self) -> None:
        """At once."""
        self.deaths = _TRIES
        with suppress(OSError):
            self._process.kill()
            self._process.wait()

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", helper_process.__name__, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.helper = Helper(self._process.stdin, self._process.stdout, self._process.kill)

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
            self._begin()


def neighbour(device: str, number: int) -> str:
    """The device of the helper with this number, from 1 on, where who leads is on `device`."""
    kind, _, first = device.partition(":")
    if kind == "cpu":
        return device
    import torch

    return f"{kind}:{(int(first or 0) + number) % max(1, torch.cuda.device_count())}"
