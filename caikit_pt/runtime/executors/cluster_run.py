"""A run in a cluster, as the server sees it: by the files of its folder, and by whom the cluster knows.

What the run writes on its node comes into the folder by a link.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.executor import Run, name_of_signal
from caikit_pt.runtime.executors.helper_runs import HelperRuns
from caikit_pt.runtime.executors.keeper import SECONDS_BETWEEN_BEATS
from caikit_pt.runtime.executors.link import Link
from caikit_pt.runtime.executors.node import Resources
from caikit_pt.runtime.job import WAITING_FOR, Job
from caikit_pt.runtime.json_file import read_json, write_json
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.reports import ENDS, FAILED, Report, received
from caikit_pt.runtime.run_folder import RunFolder

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.2
# The cluster is asked that often whether it still has the run.
_SECONDS_BETWEEN_QUESTIONS = 1.0
# Where nobody can tell, it is given up when it has been silent for so long.
_SECONDS_OF_SILENCE = 60 * SECONDS_BETWEEN_BEATS
# Why it waits is told first, and then again.
_SECONDS_TO_A_REASON, _SECONDS_BETWEEN_REASONS = 5.0, 60.0


def run_name(job: str, fence: int) -> str:
    """Of a run of a job, in the cluster."""
    return f"{job}-{fence}"


class ClusterRun(Run):
    """`closed`: whether the server ends; the run goes on then, and its `helpers` with it."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        files: RunFolder,
        link: Link,
        needs: Resources,
        helpers: HelperRuns,
        closed: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.name = run_name(job.id, job.fence)
        self._cluster, self._files, self._link, self._helpers = cluster, files, link, helpers
        self._needs, self._closed = needs, closed
        self._job, self._heard = job.id, job.heard
        # The cluster has been asked for it, or has turned it down.
        self._is_asked, self._is_settled, self._refusal = False, threading.Event(), ""
        # It has told something, at some time.
        self._is_under_way = bool(job.heard)
        self._generation = cluster.generation
        self._offset = self._lines = 0
        self._beat = b"", 0.0

    @property
    def is_blameless(self) -> bool:
        """See Run. One that has never shown itself may have gone with the cluster that it waited in."""
        with suppress(OSError):
            if self._files.alive.read_bytes() or self._files.end.read_bytes():
                return super().is_blameless
        has_gone = self._generation != self._cluster.generation
        return super().is_blameless or (has_gone and not self._is_under_way)

    def begin(self, order: Order) -> None:
        """See Run. Where the cluster can't be reached the run is over, and nothing is said of its job."""
        files = self._files
        try:
            files.directory.mkdir(parents=True, exist_ok=True)
            write_json(files.order, asdict(order))
            # A shared disk may take half a minute to see that a file is there, and none to see what is in it.
            for file in (files.reports, files.alive, files.leave, files.end):
                file.touch()
            if not self.killed:
                self._link.give()
                self._cluster.start(self.name, self._link.place, order.fence, self._needs)
                self._is_asked = True
        except RefusedRun as error:
            self._refusal = str(error)
            self._link.take_back()
        except OSError:
            self.killed = True
            self._link.take_back()
            raise
        finally:
            self._is_settled.set()

    def take_over(self) -> None:
        """It was begun by an earlier server, whose cluster this one needn't be."""
        self._is_asked, self._generation = True, -1
        self._is_settled.set()

    def leave(self, id: str) -> None:
        """See Run."""
        self.stop()

    def stop(self) -> None:
        """See Run."""
        if not self._is_under_way:
            self.kill()
            return
        with suppress(OSError):
            self._files.leave.write_text("leave", "utf-8")
        self._link.hurry()

    def kill(self) -> None:
        """See Run. Who listens to it sees to that, for it may take seconds."""
        self.killed = self.over = True

    def reports(self) -> Iterator[Report]:
        """See Run."""
        self._is_settled.wait()
        if self._is_asked:
            self._link.open()
        try:
            yield from self._told()
        finally:
            self._link.close(is_over=not self.goes_on)
            if self._is_asked and not self.goes_on:
                self._helpers.end()

    def _told(self) -> Iterator[Report]:
        asked, reason_at, text = 0.0, time.monotonic() + _SECONDS_TO_A_REASON, ""
        while not self._is_left:
            if self._refusal:
                yield Report(self._job, FAILED, {"text": f"{self._cluster.name} refuses it: {self._refusal}"})
                return
            for report in self._new_reports():
                yield report
                if report.kind in ENDS:
                    return
            if self.killed:
                self._end()
                return
            now = time.monotonic()
            if now >= asked + _SECONDS_BETWEEN_QUESTIONS:
                asked = now
                if not self._lives():
                    # What it has told last may be seen only now.
                    self._link.catch_up(self._is_given_up)
                    if self._is_given_up():
                        continue
                    yield from self._new_reports()
                    return
                if self._is_under_way:
                    with suppress(OSError):
                        self._helpers.keep()
            if not self._is_under_way and now >= reason_at:
                reason_at, before, text = now + _SECONDS_BETWEEN_REASONS, text, self._why_waiting()
                if text not in ("", before):
                    yield Report(self._job, WAITING_FOR, {"text": text})
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self.goes_on = self._is_asked

    @property
    def _is_left(self) -> bool:
        """Whether it is another server's, this one's next or one that shares its jobs."""
        return self._closed() or self.is_let_go

    def _is_given_up(self) -> bool:
        return self._is_left or self.killed

    def cause_of_death(self) -> str:
        """See Run."""
        try:
            told = read_json(self._files.end)
            code, text = int(told["code"]), str(told.get("text", ""))
        except (OSError, ValueError, KeyError, TypeError):
            advice = "" if self._is_under_way else self._link.advice
            return f"Its process, or the node that it was on, is gone from {self._cluster.name}.{advice}"
        if text:
            return f"Its process in {self._cluster.name} couldn't begin: {text}"
        if code >= 0:
            return f"Its process in {self._cluster.name} ended with exit code {code} before it was done."
        likely = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
        return f"Its process in {self._cluster.name} was ended by {name_of_signal(-code)}{likely}."

    def _end(self) -> None:
        """Where the cluster can't be reached it is given up: a later run counts for more."""
        if not self._is_asked:
            return
        try:
            self._cluster.kill(self.name)
        except OSError as error:
            _LOG.warning("%s can't be ended, and is given up: %s", self.name, error)

    def _new_reports(self) -> Iterator[Report]:
        """Those that weren't noted yet, of which there may be none."""
        for line in self._new_lines():
            self._is_under_way = True
            self._lines += 1
            for report in received([line]):
                if self._lines > self._heard:
                    yield replace(report, number=self._lines)

    def _new_lines(self) -> Sequence[str]:
        """Those that are whole."""
        try:
            with self._files.reports.open("rb") as reports:
                reports.seek(self._offset)
                told = reports.read()
        except OSError:
            return ()
        whole = told[: told.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line.decode("utf-8", "replace") for line in whole.split(b"\n")[:-1]]

    def _lives(self) -> bool:
        try:
            return self.name in self._cluster.running()
        except OSError:
            return self._is_heard()

    def _is_heard(self) -> bool:
        """Whether it has shown itself lately. One that has never done so waits for room."""
        now, beat = time.monotonic(), b""
        if self._link.is_away:
            self._beat = self._beat[0], now
            return True
        with suppress(OSError):
            beat = self._files.alive.read_bytes()
        # By the clock here: others go otherwise.
        if beat != self._beat[0]:
            self._beat = beat, now
        return not beat or now - self._beat[1] < _SECONDS_OF_SILENCE

    def _why_waiting(self) -> str:
        try:
            return self._cluster.why_waiting(self.name, self._needs)
        except OSError as error:
            return f"{self._cluster.name} can't be asked now: {error}"
