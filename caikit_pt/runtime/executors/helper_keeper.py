"""Keeps helpers of one run on a node of a cluster, beside that of who leads it.

    python -m caikit_pt.runtime.executors.helper_keeper JOB FENCE COUNT

JOB is as the keeper of the run itself has it (keeper.py). Nothing heavy is imported: the processes that help
are others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from caikit_pt.runtime.executors.helper_files import lent
from caikit_pt.runtime.run_folder import RunFolder

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.5
# One that dies so many times isn't begun again.
_TRIES = 3
_HELPER_PROCESS = "caikit_pt.runtime.helper_process"


def keep_helpers(job: str, fence: int, count: int, stop: threading.Event | None = None) -> None:
    """So many, until who leads has ended, or somebody sets `stop`. Each has a device of its own, from the
    first of this node on. Raises OSError, and what `lent` does."""
    stop = stop or threading.Event()
    if "://" not in job:
        _keep(Path(job), fence, count, stop)
        return
    with lent(job, fence, stop) as folder:
        if folder:
            _keep(folder, fence, count, stop)


def _keep(job: Path, fence: int, count: int, stop: threading.Event) -> None:
    run = RunFolder(job, fence)
    if not run.is_last:
        return
    order = json.loads(run.order.read_text("utf-8"))
    # The run may be of a server with other settings, and hear nobody.
    if not order.get("elsewhere"):
        return
    environment = {**os.environ, **order["environment"]}
    with (run.directory / f"helpers-{socket.gethostname()}-{os.getpid()}.log").open("ab") as log:
        helpers = [
            _Helper([str(job), _device(order["device"], number), str(run.calls)], environment, log)
            for number in range(count)
        ]
        try:
            while run.is_last and not run.has_ended:
                there = [helper.keep() for helper in helpers]
                if not any(there) or stop.wait(_SECONDS_BETWEEN_LOOKS):
                    return
        finally:
            for helper in helpers:
                helper.end()


class _Helper:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> None:
        self._arguments, self._environment, self._log = arguments, environment, log
        self._tries = 0
        self._begin()

    def keep(self) -> bool:
        """Whether it is there; it is begun again where it has died. One that who leads let go has ended."""
        code = self._process.poll()
        if code and self._tries < _TRIES:
            _LOG.warning("a helper ended with %d, and is begun again", code)
            self._begin()
            return True
        return code is None

    def end(self) -> None:
        with suppress(OSError):
            self._process.kill()
        self._process.wait()

    def _begin(self) -> None:
        self._tries += 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", _HELPER_PROCESS, *self._arguments],
            # It ends when this process does.
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
        )


def _device(first: str, number: int) -> str:
    """A cluster shows a run the GPUs that it has."""
    kind, _, _ = first.partition(":")
    return first if kind == "cpu" else f"{kind}:{number}"


def main() -> None:
    """SIGTERM ends it: it has nothing that anybody would miss."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    keep_helpers(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), stop)


if __name__ == "__main__":
    main()
