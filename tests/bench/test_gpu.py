"""bench/gpu runs without caikit, and whatever happens in it is a row: a GPU is lent for minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from bench.gpu import ceiling, page, size, waits
from bench.gpu.measure import Measure, Part
from bench.gpu.parts import parts
from bench.gpu.process import Ended, Process
from bench.gpu.room import Taken, limited, watched
from bench.gpu.row import FAILED, MACHINE, MET, MISSED, NOT_RUN, NOT_THERE, NotThere, Row, judged
from bench.gpu.runner import Runner
from examples.local_server import ROOT
from tests.numerics.families import ALL_FAMILIES
from tests.plain_server import CAIKIT

QUICK = size.quick("cpu", "")
# A process that ends, and a measure that fails: neither takes more with it than itself.
BROKEN = """
import os, sys

class WithoutCaikit:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {caikit!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, WithoutCaikit())

import caikit_pt
for name in caikit_pt.__all__[:4]:
    try:
        getattr(caikit_pt, name)
    except ImportError as error:
        assert str(error) == f"caikit_pt.{{name}} needs caikit, which isn't installed", error
    else:
        raise AssertionError(name)
assert not hasattr(caikit_pt, "something")

from bench.gpu import correctness, memory
from bench.gpu.__main__ import main

family = correctness.Correctness._family
def ending(self, name):
    if name == "bloom":
        os._exit(3)
    return family(self, name)
def failing(self):
    raise RuntimeError("planted | here")
correctness.Correctness._family = ending
memory.Memory._training = failing
main(["--device", "cpu", "--quick", "--write", sys.argv[1]])
assert not set({caikit!r}) & set(sys.modules)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Row]:
    """Those of a quick run on the CPU in which some is broken, by part and by what they are of."""
    written = tmp_path_factory.mktemp("gpu") / "gpu.md"
    code = BROKEN.format(caikit=CAIKIT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(written)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == written.read_text("utf-8")
    assert "s to go] memory: a request that has no room" in done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip("| *") for cell in line] for line in lines]
    return {(line[0], line[1]): Row(*line) for line in cells}


def test_every_part_yields_its_rows(rows: dict[tuple[str, str], Row]) -> None:
    measures = [measure for part in parts(QUICK) for measure in part.measures if part.name != MACHINE]
    assert list(rows) == [(measure.part, measure.what) for measure in measures]


def test_all_is_well_but_what_was_broken(rows: dict[tuple[str, str], Row]) -> None:
    failed = {what: row.found for (_, what), row in rows.items() if row.verdict == FAILED}
    assert failed == {
        "bloom": "its process ended with 3",
        "an update whose passes have no room": "RuntimeError: planted / here",
    }
    assert not [row for row in rows.values() if row.verdict == MISSED]
    absent = [row for row in rows.values() if row.verdict == NOT_THERE]
    assert all("CUDA" in row.what or "waits" in row.part or "batching" in row.what for row in absent)


def test_families_are_the_same_on_a_cpu(rows: dict[tuple[str, str], Row]) -> None:
    for name in ("tiny-llama", "llama", "t5"):
        row = rows["correctness", name]
        assert row.verdict == MET
        assert "40 of 40 tokens; bfloat16:" in row.found
        assert "in batches" in row.found


def test_who_has_no_room_is_refused(rows: dict[tuple[str, str], Row]) -> None:
    assert rows["memory", "a request that has no room"].found.startswith("OutOfMemory; 3 of 3 others")


def test_an_update_without_room_takes_smaller_passes(tmp_path: Path) -> None:
    (training, _) = next(
        part for part in parts(size.quick("cpu", str(tmp_path))) if part.name == "memory"
    ).measures
    (row,) = training.run()
    assert row.verdict == MET, row.found


def test_what_there_is_no_time_for_is_named() -> None:
    told: list[str] = []
    found = list(Runner(QUICK, minutes=0, tell=told.append).rows())
    assert {row.verdict for row in found} == {NOT_RUN}
    assert len(found) == sum(len(part.measures) for part in parts(QUICK))
    assert not told


def test_only_the_parts_that_are_asked_for() -> None:
    found = list(Runner(QUICK, 0, print, ["serving", "memory"]).rows())
    assert {row.part for row in found} == {MACHINE, "serving", "memory", waits.PART}


def test_a_measure_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("some", [Measure("some", "endless", 1.0, list), Measure("some", "next", 1.0, list)])
    started: list[int] = []

    class Hanging:
        def message(self, stop: float) -> bool:
            if len(started) == 1:
                from bench.gpu.process import Late

                raise Late
            return False

        def end(self) -> None:
            pass

    def start(size: object, number: int, first: int, stop: float) -> Hanging:
        started.append(first)
        return Hanging()

    monkeypatch.setattr("bench.gpu.runner.parts", lambda size: [part])
    monkeypatch.setattr(Process, "start", start)
    (row,) = Runner(QUICK, 10, lambda line: None).rows()
    assert row == Row("some", "endless", "no end after 60 s", "", FAILED)
    assert started == [0, 1]


def test_on_a_gpu_each_process_begins_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is none, which is said for the measure at hand; names and versions are there."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stop = time.monotonic() + 120
    process = Process.start(size.quick("cuda", ""), 0, 0, stop)
    try:
        messages = [process.message(stop) for _ in range(3)]
    finally:
        process.end()
    assert [message.what for message in messages if isinstance(message, Row)] == ["date", "versions"]
    assert messages[2] is True
    with pytest.raises((Ended, OSError)):
        process.message(stop)


def test_the_page_says_how_to_read_it() -> None:
    explained = page.render([]).removesuffix(f"{page.UNMEASURED}\n")
    assert (ROOT / "docs" / "gpu.md").read_text("utf-8").startswith(explained), "bench/gpu/page.py changed"
    shown = page.render([Row(MACHINE, "device", "a GPU"), judged("some", "what", "2", "3", False)])
    assert "- device: a GPU" in shown
    assert "1 rows: 1 missed." in shown
    assert shown.endswith("| some | what | 2 | 3 | **missed** |\n")


def test_all_families_are_tried() -> None:
    assert set(size.full("cuda", "").families) == set(ALL_FAMILIES)


def test_all_fits_into_ten_minutes() -> None:
    assert (
        sum(part.seconds for part in parts(size.full("cuda", ""))) < 500
    )  # the rest is for what takes longer than expected


def test_waits_are_counted_by_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def act() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = waits.counted(act)
    assert modes == ["warn", "default"]
    assert found.total == 2
    assert str(found).startswith("2 (test_gpu.py:")
    with pytest.raises(NotThere):
        waits.row("a step", "cpu", act)


def test_the_nominal_figures_are_those_of_the_device() -> None:
    h100, h200 = ceiling.nominal("NVIDIA H100 80GB HBM3"), ceiling.nominal("NVIDIA H200")
    assert h100
    assert h200
    assert h100.operations == h200.operations
    assert h100.bandwidth < h200.bandwidth
    assert ceiling.nominal("NVIDIA H100 PCIe") not in (h100, None)
    assert ceiling.nominal("something") is None


def test_a_peak_is_measured() -> None:
    assert ceiling.peak("cpu", "float32", (64,)) > 0
    assert ceiling.bandwidth("cpu", 2**16) > 0


@pytest.fixture
def some() -> torch.Tensor:
    """Of 4,000 bytes."""
    return torch.ones(1000)


def test_room_counts_new_tensors_and_no_views(some: torch.Tensor) -> None:
    with watched("cpu") as taken:
        _ = some.view(10, 100).T + torch.ones(100, 1)
    assert taken.most == some.nbytes
    assert Taken(100, 400).share(1 / 3) == 200
    with limited("cpu", 4000):
        _ = some + some
    with limited("cpu", 3999), pytest.raises(torch.OutOfMemoryError):
        _ = some + some
