"""A run takes over what the one before had kept when it began, and nothing that comes later."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.run_folder import RunFolder, last_run, runs
from caikit_pt.tuning.snapshot import Snapshots


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()


def begun(job: Path, fence: int, snapshots: str = "", artifact: str = "") -> RunFolder:
    run = RunFolder(job, fence)
    run.directory.mkdir(exist_ok=True)
    run.begin()
    for folder, name in ((run.snapshots, snapshots), (run.artifact, artifact)):
        if name:
            folder.mkdir(exist_ok=True)
            (folder / name).touch()
    return run


def kept(run: RunFolder) -> set[str]:
    folders = (run.snapshots, run.artifact)
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


def test_what_the_run_before_has_kept_is_there(tmp_path: Path) -> None:
    begun(tmp_path, 1, snapshots="one")
    assert kept(begun(tmp_path, 2)) == {"one"}
    assert kept(begun(tmp_path, 5, artifact="made")) == {"one", "made"}
    assert [path.name for path in runs(tmp_path)] == ["000005"]
    assert last_run(tmp_path) == 5


def test_what_a_run_writes_that_was_given_up_counts_for_nothing(tmp_path: Path) -> None:
    cut_off = begun(tmp_path, 1, snapshots="one")
    second = begun(tmp_path, 2)
    assert (cut_off.is_last, second.is_last) == (False, True)
    cut_off.snapshots.mkdir(parents=True, exist_ok=True)
    (cut_off.snapshots / "late").touch()
    # Though the second has kept none of its own.
    assert kept(begun(tmp_path, 3)) == {"one"}


def test_nor_where_the_run_behind_it_had_nothing_to_take_over(tmp_path: Path) -> None:
    cut_off = begun(tmp_path, 1)
    begun(tmp_path, 2)
    cut_off.snapshots.mkdir(parents=True, exist_ok=True)
    (cut_off.snapshots / "late").touch()
    assert kept(begun(tmp_path, 3)) == set()


def test_one_that_died_while_it_began_has_lost_nothing(tmp_path: Path) -> None:
    """It had copies of some of what there was, and half of others."""
    begun(tmp_path, 1, snapshots="one", artifact="made")
    died = RunFolder(tmp_path, 2)
    (died.directory / ".artifact.new").mkdir(parents=True)
    died.snapshots.mkdir()
    assert kept(begun(tmp_path, 3)) == {"one", "made"}


def test_what_is_open_elsewhere_is_never_that_of_the_next(tmp_path: Path) -> None:
    """On a shared disk a directory is written to by who had it open, whatever it is called by now."""
    first = begun(tmp_path, 1, snapshots="one")
    opened = os.open(first.snapshots, os.O_RDONLY)
    second = begun(tmp_path, 2)
    with contextlib.suppress(OSError):
        os.close(os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=opened))
    os.close(opened)
    assert kept(second) == {"one"}


def test_a_run_that_was_given_up_before_it_began_never_begins(tmp_path: Path) -> None:
    begun(tmp_path, 1, snapshots="one")
    given_up, last = RunFolder(tmp_path, 2), RunFolder(tmp_path, 3)
    for run in (given_up, last):
        run.directory.mkdir()
    with pytest.raises(StateUnavailable, match="a later run"):
        given_up.begin()
    assert kept(begun(tmp_path, 3)) == {"one"}


def test_a_run_is_kept_once(tmp_path: Path) -> None:
    run = begun(tmp_path, 1)
    assert [run.claim(), RunFolder(tmp_path, 1).claim()] == [True, False]


def test_what_has_ended_is_no_run_any_more(tmp_path: Path) -> None:
    run = begun(tmp_path, 1)
    shutil.rmtree(tmp_path / "runs")
    assert not run.is_last
    with pytest.raises(OSError, match="No such file"):
        Snapshots(run.snapshots, 0.0)._write(1, {})


def test_a_job_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """It had no runs, and kept these beside its plan."""
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "old").touch()
    assert kept(begun(tmp_path, 1)) == {"old"}
    assert last_run(tmp_path / "nowhere") == 0
