"""What passes through the pipe between a job's process and the server."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import IO

import pytest

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime import reports
from caikit_pt.runtime.job_process import Warnings
from caikit_pt.runtime.reports import Report, Reporter, received


def pipe() -> tuple[IO[str], IO[str]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, encoding="utf-8"), os.fdopen(writing, "w", encoding="utf-8")


def close(sending: threading.Thread, reporter: Reporter, writing: IO[str]) -> None:
    sending.join()
    reporter.close(10)
    writing.close()


def test_reports_arrive_in_order_and_whole() -> None:
    reading, writing = pipe()
    with reading, writing:
        reporter = Reporter(writing, lambda: None)
        sent = [Report(f"job {n}", kinds.WARNING, {"text": f"ünïcode\n{n}"}) for n in range(50)]
        for report in sent:
            assert reporter.send(report)
        reporter.close(5)
        writing.close()
        assert list(received(reading)) == sent


def test_a_line_that_was_cut_off_is_no_report() -> None:
    assert list(received(['["a", "warning", {"text": "x"}]\n', '["a", "finis'])) == [
        Report("a", kinds.WARNING, {"text": "x"})
    ]


def test_what_nobody_reads_is_dropped_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_MOST_WAITING", 3)
    reading, writing = pipe()
    with reading:
        reporter = Reporter(writing, lambda: None)
        large = Report("job", kinds.PROGRESS, {"points": [0.5] * 100_000})
        taken = [reporter.send(large, may_be_dropped=True) for _ in range(10)]
        assert False in taken
        waiting = threading.Thread(target=reporter.send, args=(Report("job", reports.FINISHED, {}),))
        waiting.start()
        closing = threading.Thread(target=close, args=(waiting, reporter, writing))
        closing.start()
        found = list(received(reading))
        closing.join()
    assert found == [large] * sum(taken) + [Report("job", reports.FINISHED, {})]


def test_a_server_that_is_gone_is_noticed() -> None:
    reading, writing = pipe()
    reading.close()
    gone = threading.Event()
    reporter = Reporter(writing, gone.set)
    reporter.send(Report("job", kinds.PHASE, {"phase": "training"}))
    assert gone.wait(5)
    reporter.close(5)
    with suppress(BrokenPipeError):
        writing.close()


def test_warnings_are_reported_for_the_job_in_whose_thread_they_come() -> None:
    reading, writing = pipe()
    with reading, writing:
        reporter = Reporter(writing, lambda: None)
        log = logging.getLogger("caikit_pt.tests.warnings")
        log.addHandler(Warnings(reporter))
        log.setLevel(logging.INFO)

        def work() -> None:
            log.info("nothing to tell")
            log.warning("out of memory; forward passes of %d positions from now on", 512)

        for name in ("one", "two"):
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
        reporter.close(5)
        writing.close()
        text = "out of memory; forward passes of 512 positions from now on"
        assert list(received(reading)) == [
            Report(name, kinds.WARNING, {"text": text}) for name in ("one", "two")
        ]
