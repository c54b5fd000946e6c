"""The process in which jobs are trained: `python -m caikit_pt.runtime.job_process`.

It takes commands from stdin, a JSON object a line, and reports on stdout (reports.py). When stdin ends,
because the server wants it to or is no more, each training keeps a snapshot and the process ends; so it does
on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.loading.libraries import import_libraries
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_run import JobRun
from caikit_pt.runtime.order import LEAVE, RUN, Order
from caikit_pt.runtime.reports import Report, Reporter

# From a wish to stop to the end, whatever is under way: SIGTERM's ten seconds less what the server needs.
_SECONDS_TO_STOP = 7.0
# The environment variable that says how many threads compute.
THREADS = "OMP_NUM_THREADS"
_LIKELY_TO_BE_KILLED = "500"  # of 1,000: sooner than the server, where memory runs out


class JobProcess:
    """The jobs of this process, a thread for each."""

    def __init__(self, commands: IO[str], output: IO[str]) -> None:
        self._commands = commands
        self.reports = Reporter(output, self._stop)
        self._runs: dict[str, JobRun] = {}
        self._stopping = threading.Event()

    def work(self) -> None:
        """Takes commands until there are no more, then stops what still runs."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        self._stopping.wait()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for run in list(self._runs.values()):
            run.stop()
        for run in list(self._runs.values()):
            run.thread.join(max(0.0, deadline - time.monotonic()))
        self.reports.close(1.0)

    def _listen(self) -> None:
        for line in self._commands:
            command = json.loads(line)
            if RUN in command:
                order = Order(**command[RUN])
                if not self._runs:
                    _settle(Path(order.folder), order.environment)
                run = self._runs[order.job] = JobRun(self.reports, order)
                run.thread.start()
                if order.shared:
                    threading.Thread(target=run.leave_to_others, daemon=True).start()
                if order.alone:
                    threading.Thread(target=self._stop_after, args=(run,), daemon=True).start()
            elif command[LEAVE] in self._runs:
                self._runs[command[LEAVE]].stop()
        self._stop()

    def _stop_after(self, run: JobRun) -> None:
        run.thread.join()
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()


class Warnings(logging.Handler):
    """Warnings of this project's code become events of the job in whose thread they come."""

    def __init__(self, reports: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reports = reports

    def emit(self, record: logging.LogRecord) -> None:
        self._reports.send(Report(record.threadName or "", kinds.WARNING, {"text": record.getMessage()}))


def _settle(folder: Path, environment: Mapping[str, str]) -> None:
    """The process belongs to a job now: the log is the job's, and the GPUs are."""
    os.environ.update(environment)
    if threads := environment.get(THREADS):
        import torch

        # It is imported already, and has looked before.
        torch.set_num_threads(int(threads))
    with JobFolder(folder).log.open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)


def main() -> None:
    """Reports go where stdout went; what libraries print goes to the log."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_LIKELY_TO_BE_KILLED)
    # Before the first command: the job that it brings begins sooner. No GPU is touched.
    import_libraries()
    # Before any thread is there, so that all of a job's threads reckon alike.
    with no_denormals():
        process = JobProcess(sys.stdin, output)
        logging.getLogger("caikit_pt").addHandler(Warnings(process.reports))
        process.work()
    # Threads that are deep in native code would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
