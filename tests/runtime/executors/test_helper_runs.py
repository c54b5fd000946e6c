"""The runs that help another one, by whom the cluster knows. Real ones: test_ray.py."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.executors import cluster_run, helper_runs
from caikit_pt.runtime.executors.cluster_executor import ClusterExecutor
from caikit_pt.runtime.executors.cluster_run import ClusterRun
from caikit_pt.runtime.executors.helper_runs import led_by
from caikit_pt.runtime.executors.node import GIB, Resources
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.reports import FINISHED
from tests.runtime.executors.test_cluster_run import Known, begun, tell
from tests.runtime.jobs import job
from tests.runtime.servers import wait_for

EACH = Resources(cpus=2, memory=GIB)


class Counted(Known):
    """How many helpers it was asked for, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.helpers = dict[str, int]()

    def start(self, name: str, job: str, fence: int, needs: Resources, helpers: int = 0) -> None:
        super().start(name, job, fence, needs, helpers)
        self.helpers[name] = helpers


@pytest.fixture
def known() -> Counted:
    return Counted()


@pytest.fixture
def executor(known: Counted, monkeypatch: pytest.MonkeyPatch) -> ClusterExecutor:
    for name in ("_SECONDS_BETWEEN_LOOKS", "_SECONDS_BETWEEN_QUESTIONS"):
        monkeypatch.setattr(cluster_run, name, 0.01)
    monkeypatch.setattr(helper_runs, "_SECONDS_TO_ANOTHER", 0.02)
    return ClusterExecutor(known, EACH, {}, lambda: {("a", 3)}, workers=5, workers_per_node=2)


def places(names: Iterable[str]) -> list[str]:
    """Which runs they are, whichever try."""
    return sorted(name.partition(".")[0] for name in names)


@contextmanager
def heard(run: ClusterRun) -> Iterator[list[str]]:
    """What it tells, until it has ended."""
    told = list[str]()
    listens = threading.Thread(target=lambda: told.extend(one.kind for one in run.reports()))
    listens.start()
    try:
        yield told
        listens.join(10)
        assert not listens.is_alive()
    finally:
        run.kill()
        listens.join()


def test_they_begin_when_who_leads_has_and_end_with_it(
    executor: ClusterExecutor, known: Counted, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    assert known.helpers == {"a-3": 0}
    with heard(run):
        threading.Event().wait(0.2)
        assert known.names == {"a-3"}
        tell(tmp_path, (kinds.PHASE, 0))
        wait_for(lambda: places(known.names) == ["a-3", "a-3+1", "a-3+2"])
        assert sorted(known.helpers.values()) == [0, 1, 2]
        assert known.needs == [replace(EACH, cpus=2 * n, memory=n * GIB) for n in (2, 2, 1)]
        tell(tmp_path, (FINISHED, 0))
    assert known.names == {"a-3"}


def test_one_that_ends_is_begun_again_some_times(
    executor: ClusterExecutor, known: Counted, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    with heard(run):
        tell(tmp_path, (kinds.PHASE, 0))
        for number in (1, 2, 3):
            wait_for(lambda: "a-3+2" in places(known.names))
            assert places(known.helpers).count("a-3+2") == number
            known.names = {name for name in known.names if not name.startswith("a-3+2.")}
        threading.Event().wait(0.2)
        assert places(known.names) == ["a-3", "a-3+1"]
        tell(tmp_path, (FINISHED, 0))


def test_the_next_server_finds_them_and_ends_them(
    executor: ClusterExecutor, known: Counted, tmp_path: Path
) -> None:
    begun(executor, tmp_path)
    known.names |= {"a-3+1.2", "a-31+2.1"}
    tell(tmp_path, (kinds.PHASE, 0))
    found = executor.found(replace(job("a"), fence=3, heard=1, is_open=True), JobFolder(tmp_path / "a"))
    assert found
    with heard(found):
        wait_for(lambda: "a-3+2" in places(known.names))
        assert places(known.names).count("a-3+1") == 1
        tell(tmp_path, (FINISHED, 0))
    assert known.names == {"a-3", "a-31+2.1"}


def test_what_the_cluster_turns_down_leaves_who_leads_alone(
    executor: ClusterExecutor, known: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begun(executor, tmp_path)
    known.refuses = "no such queue"
    with heard(run) as told:
        tell(tmp_path, (kinds.PHASE, 0))
        wait_for(lambda: caplog.text.count("no such queue") == 2)
        threading.Event().wait(0.1)
        tell(tmp_path, (FINISHED, 0))
    assert told == [kinds.PHASE, FINISHED]
    assert caplog.text.count("the cluster won't have helpers for a-3: no such queue") == 2


def test_a_cluster_that_is_away_for_a_while_costs_no_try(
    executor: ClusterExecutor, known: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, start, left = begun(executor, tmp_path), known.start, iter(range(10))

    def fails(*what: Any) -> None:
        if next(left, None) is not None:
            raise OSError("no answer")
        start(*what)

    monkeypatch.setattr(known, "start", fails)
    with heard(run):
        tell(tmp_path, (kinds.PHASE, 0))
        wait_for(lambda: places(known.names) == ["a-3", "a-3+1", "a-3+2"])
        tell(tmp_path, (FINISHED, 0))


def test_whom_they_help_is_in_their_names() -> None:
    assert [led_by(name) for name in ("a-3", "a-3+1.2")] == ["a-3", "a-3"]
