"""A run in a cluster, by its files and by whom the cluster knows. Real ones: test_ray.py."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.executors import cluster_run, link
from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.cluster_executor import ClusterExecutor
from caikit_pt.runtime.executors.cluster_run import ClusterRun
from caikit_pt.runtime.executors.exchange import Exchange
from caikit_pt.runtime.executors.helper_runs import HelperRuns
from caikit_pt.runtime.executors.node import GIB, Node, Resources
from caikit_pt.runtime.executors.post import Post
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.reports import FINISHED, Report
from tests.runtime.jobs import job

EACH = Resources(cpus=1)


class Known(Cluster):
    """A cluster that knows names, or is away."""

    name = "the cluster"

    def __init__(self) -> None:
        self.names = set[str]()
        self.away = False
        self.needs = list[Resources]()

    def _check(self) -> None:
        if self.away:
            raise OSError("no connection")

    def why_not(self) -> str:
        return "no connection" if self.away else ""

    generation = 1
    refuses = ""

    def start(self, name: str, job: str, fence: int, needs: Resources, helpers: int = 0) -> None:
        self._check()
        if self.refuses:
            raise RefusedRun(self.refuses)
        self.names.add(name)
        self.needs.append(needs)

    def running(self) -> Collection[str]:
        self._check()
        return set(self.names)

    def kill(self, name: str) -> None:
        self._check()
        self.names.discard(name)

    def why_waiting(self, name: str, needs: Resources) -> str:
        return f"It needs {needs}."

    def nodes(self) -> Sequence[Node]:
        return ()

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SECONDS_BETWEEN_LOOKS", "_SECONDS_BETWEEN_QUESTIONS"):
        monkeypatch.setattr(cluster_run, name, 0.01)
    monkeypatch.setattr(link, "_SECONDS_FOR_FILES", 0.01)


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def executor(known: Known) -> ClusterExecutor:
    return ClusterExecutor(known, EACH, {}, lambda: {("a", 3)})


def order(root: Path) -> Order:
    return Order(
        job="a", folder=str(root / "a"), fence=3, device="cpu", environment={}, joined=False, seconds=1.0,
        told=0, alone=True, shared=False,
    )  # fmt: skip


def begun(executor: ClusterExecutor, root: Path) -> ClusterRun:
    run = executor.run_of(replace(job("a"), fence=3), JobFolder(root / "a"))
    run.begin(order(root))
    return run


def tell(root: Path, *reports: tuple[str, int], torn: str = "") -> None:
    with (root / "a" / "runs" / "000003" / "reports.jsonl").open("a") as file:
        for kind, step in reports:
            file.write(json.dumps(["a", kind, {"step": step}]) + "\n")
        file.write(torn)


def test_what_it_tells_comes_once_and_in_order(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    assert known.names == {"a-3"}
    tell(tmp_path, ("phase", 0), ("checkpoint", 1), torn='["a", "check')
    found = run.reports()
    assert [next(found) for _ in range(2)] == [
        Report("a", "phase", {"step": 0}, 1),
        Report("a", "checkpoint", {"step": 1}, 2),
    ]
    tell(tmp_path, torn='point", {"step": 2}]\n')
    assert next(found) == Report("a", "checkpoint", {"step": 2}, 3)
    tell(tmp_path, (FINISHED, 0))
    assert [report.kind for report in found] == [FINISHED]
    assert not run.is_blameless


def test_the_next_server_hears_what_this_one_has_not(executor: ClusterExecutor, tmp_path: Path) -> None:
    begun(executor, tmp_path)
    tell(tmp_path, ("phase", 0), ("checkpoint", 1), ("checkpoint", 2), (FINISHED, 0))
    again = executor.found(replace(job("a"), fence=3, heard=2, is_open=True), JobFolder(tmp_path / "a"))
    assert again is not None
    assert [(report.kind, report.number) for report in again.reports()] == [("checkpoint", 3), (FINISHED, 4)]
    # And none whose end was noted.
    assert executor.found(replace(job("a"), fence=3), JobFolder(tmp_path / "a")) is None


def test_it_goes_on_where_the_server_ends(executor: ClusterExecutor, known: Known, tmp_path: Path) -> None:
    run = begun(executor, tmp_path)
    threading.Timer(0.1, executor.close).start()
    assert list(run.reports()) == []
    assert run.goes_on
    assert known.names == {"a-3"}


def test_one_that_the_cluster_knows_no_more_is_dead(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    tell(tmp_path, ("phase", 0))
    known.names.clear()
    assert [report.kind for report in run.reports()] == ["phase"]
    assert not run.is_blameless
    assert run.cause_of_death() == "Its process, or the node that it was on, is gone from the cluster."
    for code, told in (
        (-9, "SIGKILL, as it is where memory runs out."),
        (-11, "SIGSEGV."),
        (1, "code 1 "),
    ):
        run._files.end.write_text(json.dumps({"code": code}))
        assert told in run.cause_of_death()


def test_where_the_cluster_is_away_its_signs_of_life_count(
    executor: ClusterExecutor, known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_run, "_SECONDS_OF_SILENCE", 0.3)
    run = begun(executor, tmp_path)
    tell(tmp_path, ("phase", 0))
    known.away = True
    beats = iter(range(4))
    lives = threading.Event()

    def beat() -> None:
        for number in beats:
            run._files.alive.write_text(str(number))
            lives.wait(0.15)

    beating = threading.Thread(target=beat)
    beating.start()
    assert [report.kind for report in run.reports()] == ["phase"]
    # It was silent then, and not before.
    assert next(beats, None) is None
    beating.join()


def test_why_it_waits_is_told_while_it_has_told_nothing(
    executor: ClusterExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_run, "_SECONDS_TO_A_REASON", 0.05)
    run = begun(executor, tmp_path)
    found = run.reports()
    assert next(found) == Report("a", kinds.WAITING_FOR, {"text": "It needs 1 CPU, 1.0 GiB."})
    tell(tmp_path, (FINISHED, 0))
    assert [report.kind for report in found] == [FINISHED]


def test_one_that_waits_for_room_is_ended_by_the_cluster(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    run.leave("a")
    assert list(run.reports()) == []
    assert known.names == set()
    assert run.is_blameless


def test_one_that_is_under_way_is_asked_to_leave(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    run = begun(executor, tmp_path)
    tell(tmp_path, ("phase", 0))
    assert next(run.reports()).kind == "phase"
    run.leave("a")
    assert run._files.leave.read_bytes()
    assert known.names == {"a-3"}


def test_one_that_the_cluster_will_never_have_ends_its_job(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    known.refuses = "cpus: 1e-09"
    (report,) = begun(executor, tmp_path).reports()
    assert (report.kind, report.data) == ("failed", {"text": "the cluster refuses it: cpus: 1e-09"})


def test_one_that_waited_in_a_cluster_that_is_gone_is_no_death(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    """One that had shown itself is."""
    waited, ran = begun(executor, tmp_path), begun(executor, tmp_path)
    known.names.clear()
    known.generation += 1
    assert list(waited.reports()) == []
    assert waited.is_blameless
    ran._files.alive.write_text("1")
    assert list(ran.reports()) == []
    assert not ran.is_blameless


def test_a_line_of_another_shape_is_passed_over(executor: ClusterExecutor, tmp_path: Path) -> None:
    run = begun(executor, tmp_path)
    tell(tmp_path, torn='5\n[1, 2, 3]\nnull\n{"a": 1}\n')
    tell(tmp_path, (FINISHED, 0))
    assert [(report.kind, report.number) for report in run.reports()] == [(FINISHED, 5)]


def test_a_cluster_that_is_away_begins_nothing(
    executor: ClusterExecutor, known: Known, tmp_path: Path
) -> None:
    known.away = True
    assert executor.why_not() == "no connection"
    with pytest.raises(OSError, match="no connection"):
        executor.wait_until_ready()
    with pytest.raises(OSError, match="no connection"):
        begun(executor, tmp_path)
    run = executor.run_of(replace(job("a"), fence=3), JobFolder(tmp_path / "a"))
    with pytest.raises(OSError, match="no connection"):
        run.begin(order(tmp_path))
    assert list(run.reports()) == []
    assert run.is_blameless


class Away(link.SharedDirectory):
    """A store that can't be reached, until it can."""

    is_away = True
    advice = " Look there."

    def catch_up(self, is_enough: Callable[[], bool]) -> None:
        while self.is_away and not is_enough():
            time.sleep(0.01)


def away(known: Known, root: Path) -> tuple[ClusterRun, Away]:
    files = JobFolder(root / "a").run(3)
    made = Away(files)
    helpers = HelperRuns(known, "a-3", str(root / "a"), 3, ())
    run = ClusterRun(known, replace(job("a"), fence=3), files, made, EACH, helpers, lambda: False)
    run.begin(order(root))
    return run, made


def test_a_store_that_is_away_is_no_silence(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told last is heard when it is back, though the cluster knows the run no more."""
    monkeypatch.setattr(cluster_run, "_SECONDS_OF_SILENCE", 0.1)
    run, store = away(known, tmp_path)
    heard = list[str]()
    listening = threading.Thread(target=lambda: heard.extend(one.kind for one in run.reports()))
    listening.start()
    run._files.alive.write_text("1")
    known.away = True
    listening.join(0.5)
    known.away, known.names = False, set()
    listening.join(0.5)
    assert listening.is_alive()
    tell(tmp_path, ("phase", 0), (FINISHED, 0))
    store.is_away = False
    listening.join(10)
    assert heard == ["phase", FINISHED]


def test_one_that_is_ended_while_the_store_is_away_is_ended(known: Known, tmp_path: Path) -> None:
    run, _ = away(known, tmp_path)
    known.names.clear()
    threading.Timer(0.2, run.kill).start()
    assert list(run.reports()) == []
    assert run.cause_of_death().endswith("is gone from the cluster. Look there.")


def test_what_is_left_in_a_store_is_removed(
    known: Known, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the cluster is away."""
    monkeypatch.setattr("caikit_pt.runtime.executors.cluster_executor._SECONDS_BETWEEN_SWEEPS", 0.05)
    address = f"file://{tmp_path}/store"
    post = Post(address, "me", tmp_path / "cache")
    executor = ClusterExecutor(known, EACH, {}, lambda: {("a", 3)}, post=post)
    begun(executor, tmp_path)
    store = Exchange(address)
    for name in (("me", "a", "000002"), ("me", "left", "000001"), ("another", "left", "000001")):
        store.at(*name).write("alive", b"1")
    known.away = True
    executor.start(prepared=False)
    for _ in range(200):
        if len(store.names()) == 2:
            break
        time.sleep(0.05)
    executor.close()
    assert list(store.names()) == ["another/left/000001/alive", "me/a/000003/given"]


def test_a_store_that_is_away_begins_nothing(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything lost that the run before has kept."""
    post = Post(f"file://{tmp_path}/store", "me", tmp_path / "cache")
    executor = ClusterExecutor(known, EACH, {}, list, post=post)
    before = JobFolder(tmp_path / "a").run(2)
    before.directory.mkdir(parents=True)
    before.begin()
    (before.snapshots / "one").touch()
    with monkeypatch.context() as patch:
        for name in ("put_file", "rm_file", "find"):
            patch.setattr(post._exchange._fs, name, _refused)
        with pytest.raises(OSError, match="no right"):
            begun(executor, tmp_path)
        told = f"the store file://{tmp_path}/store can't be reached: PermissionError: no right"
        assert executor.why_not() == told
        with pytest.raises(OSError, match="no right"):
            executor.wait_until_ready()
    assert known.names == set()
    run = executor.run_of(replace(job("a"), fence=4), JobFolder(tmp_path / "a"))
    run.begin(replace(order(tmp_path), fence=4))
    assert executor.why_not() == ""
    assert (run._files.snapshots / "one").exists()


def _refused(*_: object) -> None:
    raise PermissionError("no right")


def test_what_a_training_takes_is_what_it_asks_for(known: Known, tmp_path: Path) -> None:
    needing = replace(job("a"), fence=3, memory=3 * GIB, least_memory=2 * GIB)
    for each, memory in (
        (Resources(cpus=2), 4 * GIB),
        (Resources(cpus=2, memory=GIB // 2), GIB // 2),
        # There it is the GPU's.
        (Resources(cpus=2, gpus=1), 1 * GIB),
    ):
        executor = ClusterExecutor(known, each, {}, list)
        assert executor.place(needing, (), {}).device == ("cuda:0" if each.gpus else "cpu")
        executor.run_of(needing, JobFolder(tmp_path / "a")).begin(order(tmp_path))
        # And what CUDA takes.
        of_gpu = int(2.5 * GIB) if each.gpus else 0
        assert known.needs[-1] == replace(each, memory=memory, gpu_memory=of_gpu)
        both = ClusterExecutor(known, each, {}, list, workers=2)
        both.run_of(needing, JobFolder(tmp_path / "a")).begin(order(tmp_path))
        both_need = Resources(cpus=4, gpus=2 * each.gpus, memory=2 * memory, gpu_memory=of_gpu)
        assert known.needs[-1] == both_need


def test_what_nobody_attends_to_is_ended(
    known: Known, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("caikit_pt.runtime.executors.cluster_executor._SECONDS_BETWEEN_SWEEPS", 0.05)
    executor = ClusterExecutor(known, EACH, {}, lambda: {("a", 3)})
    run = begun(executor, tmp_path)
    # Who helps it is its own.
    known.names |= {"left-1", "left-1+1.1", "a-3+1.1"}
    executor.start(prepared=False)
    deadline = threading.Event()
    for _ in range(100):
        if known.names == {"a-3", "a-3+1.1"}:
            break
        deadline.wait(0.05)
    executor.close()
    assert known.names == {run.name, "a-3+1.1"}
