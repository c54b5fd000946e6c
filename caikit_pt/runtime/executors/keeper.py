"""Keeps the process of one run on a node of a cluster.

    python -m caikit_pt.runtime.executors.keeper JOB FENCE

JOB is the folder of the job, or, where the server shares none with this machine, the address of what it has
put up in a store (outbox.py). The keeper is told by files in the run's folder what to do, and sees to it that
others can tell whether it lives. Nothing heavy is imported: the process that trains is another one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from caikit_pt.runtime.executors.outbox import fetched
from caikit_pt.runtime.order import LEAVE, RUN
from caikit_pt.runtime.run_folder import RunFolder

_SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_BEATS = 1.0
_JOB_PROCESS = "caikit_pt.runtime.job_process"


def keep(job: str, fence: int, stop: threading.Event | None = None) -> int:
    """Until the run has ended; the exit code of its process. Who sets `stop` wants it to end behind a
    snapshot. A run that isn't the job's last is ended at once: nobody waits for it. Raises OSError, and what
    `fetched` does."""
    stop = stop or threading.Event()
    if "://" not in job:
        return _keep(Path(job), fence, stop)
    with fetched(job, fence, stop) as folder:
        return _keep(folder, fence, stop) if folder else 0


def _keep(job: Path, fence: int, stop: threading.Event) -> int:
    run = RunFolder(job, fence)
    if not run.is_last or not run.claim():
        return 0
    order = json.loads(run.order.read_text("utf-8"))
    with run.reports.open("ab") as reports, (job / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _JOB_PROCESS],
            stdin=subprocess.PIPE,
            stdout=reports,
            stderr=log,
            env={**os.environ, **order["environment"]},
        )
    try:
        assert process.stdin is not None
        _tell(process, {RUN: order})
        _watch(process, run, stop)
    finally:
        process.kill()
        code = process.wait()
    with suppress(OSError):
        run.end.write_text(json.dumps({"code": code}), "utf-8")
    return code


def _watch(process: subprocess.Popen[bytes], run: RunFolder, stop: threading.Event) -> None:
    """Until it has ended, or is to end at once."""
    beat, told = 0.0, False
    while process.poll() is None:
        now = time.monotonic()
        if now >= beat + SECONDS_BETWEEN_BEATS:
            beat = now
            # Its job has ended, or another run is at it.
            if not run.is_last:
                return
            # A disk that is full or away is no reason to end.
            with suppress(OSError):
                run.alive.write_text(str(time.time()), "utf-8")
        if not told and (stop.is_set() or run.is_to_leave):
            told = True
            _tell(process, {LEAVE: run.job})
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _tell(process: subprocess.Popen[bytes], command: object) -> None:
    """Who has ended hears nothing."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.write(json.dumps(command).encode() + b"\n")
        process.stdin.flush()


def main() -> None:
    """SIGTERM is the wish for an end behind a snapshot."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    sys.exit(1 if keep(sys.argv[1], int(sys.argv[2]), stop) else 0)


if __name__ == "__main__":
    main()
