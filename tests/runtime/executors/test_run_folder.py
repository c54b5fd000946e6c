"""A run takes over what the one before had kept when it began, and nothing that comes later."""

from __future__ import annotations

from pathlib import Path

from caikit_pt.runtime.run_folder import RunFolder, last_run, runs


def begun(job: Path, fence: int, snapshots: str = "", artifact: str = "") -> RunFolder:
    run = RunFolder(job, fence)
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
    cut_off.snapshots.mkdir(parents=True)
    (cut_off.snapshots / "late").touch()
    # Though the second has kept none of its own.
    assert kept(begun(tmp_path, 3)) == {"one"}


def test_nor_where_the_run_behind_it_had_nothing_to_take_over(tmp_path: Path) -> None:
    cut_off = begun(tmp_path, 1)
    begun(tmp_path, 2)
    cut_off.snapshots.mkdir(parents=True)
    (cut_off.snapshots / "late").touch()
    assert kept(begun(tmp_path, 3)) == set()


def test_one_that_died_while_it_began_has_lost_nothing(tmp_path: Path) -> None:
    """Half of what it took over is with it, and half still where it was."""
    begun(tmp_path, 1, snapshots="one", artifact="made")
    died = RunFolder(tmp_path, 2)
    died.directory.mkdir()
    RunFolder(tmp_path, 1).snapshots.rename(died.snapshots)
    assert not died.begun
    assert kept(begun(tmp_path, 3)) == {"one", "made"}


def test_a_job_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """It had no runs, and kept these beside its plan."""
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "old").touch()
    assert kept(begun(tmp_path, 1)) == {"old"}
    assert last_run(tmp_path / "nowhere") == 0
