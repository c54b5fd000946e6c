"""The files that helpers of a run need on a node whose server shares no directory with it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caikit_pt.runtime.executors.exchange import CALLS, END, GIVEN, Exchange
from caikit_pt.runtime.executors.outbox import job_folder, private_directory
from caikit_pt.runtime.run_folder import RunFolder

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_ROUNDS = 2.0


@contextmanager
def lent(address: str, fence: int, stop: threading.Event) -> Iterator[Path | None]:
    """The folder of the job at `address`, for helpers of its run with number `fence`; None where nobody waits
    for that, or it is to `stop` before the store was there. Where helpers call comes into it, and the run is
    gone from it when it isn't wanted any more. Raises ImportError, ValueError."""
    exchange = Exchange(address).of_run(fence)
    with private_directory() as root:
        folder = job_folder(exchange, root, fence, stop)
        if folder is None:
            yield None
            return
        over = threading.Event()
        follows = threading.Thread(
            target=_follow, args=(exchange, RunFolder(folder, fence), over), daemon=True
        )
        follows.start()
        try:
            yield folder
        finally:
            over.set()
            follows.join()


def _follow(exchange: Exchange, run: RunFolder, over: threading.Event) -> None:
    while not over.wait(_SECONDS_BETWEEN_ROUNDS):
        try:
            seen = exchange.names()
            if GIVEN not in seen or END in seen:
                shutil.rmtree(run.directory, ignore_errors=True)
                return
            if CALLS in seen and not run.calls.exists():
                new = run.calls.with_name(f".{run.calls.name}.new")
                new.write_bytes(exchange.read(CALLS))
                os.replace(new, run.calls)
        except OSError as error:
            _LOG.info("the store can't be asked now: %s", error)
