"""Deploying: a prompt has its name when it is whole, and never takes another's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import module
from caikit_pt.errors import DamagedArtifact, StateUnavailable
from caikit_pt.module import PeftPromptTuning
from caikit_pt.runtime.published import PublishedPrompts
from caikit_pt.soft_prompt.publication import adding, publication_of, replacing

SOUND = {"config.yml": f"module_id: {PeftPromptTuning.MODULE_ID}\n".encode(), "a": b"1"}
OF_ANOTHER = {"config.yml": b"module_id: 00110203-0405-0607-0809-0a0b02dd0e0f\n"}


def deploy(models: Path, files: dict[str, bytes]) -> Any:
    """What is told to be loaded."""
    manager: Any = SimpleNamespace(_local_models_dir=str(models), load_model=lambda *told, **_: told)
    return PublishedPrompts.deploy_model(manager, "one", files)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """In which nothing is left behind but what has been deployed."""
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"one"}


def refused(models: Path, files: dict[str, bytes]) -> CaikitRuntimeException:
    with pytest.raises(CaikitRuntimeException) as error:
        deploy(models, files)
    return error.value


def test_a_name_is_deployed_once(models: Path) -> None:
    assert deploy(models, SOUND)[:2] == ("one", str(models / "one"))
    again = refused(models, {**SOUND, "a": b"2"})
    assert (again.status_code, again.message) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "Model 'one' already exists",
    )
    assert (models / "one" / "a").read_bytes() == b"1"


def test_one_that_fails_takes_nothing_away(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both had seen that nothing was there; the one that failed removed what the other had deployed."""

    def meanwhile(*_: object) -> bool:
        monkeypatch.undo()
        deploy(models, SOUND)
        return False

    monkeypatch.setattr("caikit_pt.runtime.published.is_of", meanwhile)
    assert refused(models, OF_ANOTHER).status_code is grpc.StatusCode.NOT_FOUND
    assert (models / "one" / "a").read_bytes() == b"1"


def test_a_full_disk_is_told_as_one(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        error = refused(models, SOUND)
    assert error.status_code is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error.__cause__, StateUnavailable)
    assert error.message == "The model isn't deployed, since it can't be written: No space left on device"
    deploy(models, SOUND)


def test_what_is_damaged_is_told_by_its_own_name(models: Path) -> None:
    error = refused(models, {"config.yml": b"["})
    assert (error.status_code, error.message) == (grpc.StatusCode.DATA_LOSS, "one: config.yml is no YAML.")


def test_a_name_that_comes_meanwhile_stays(models: Path) -> None:
    ours = adding(models / "one")
    (ours.__enter__() / "a").write_bytes(b"2")
    (models / "one").mkdir()
    with pytest.raises(FileExistsError):
        ours.__exit__(None, None, None)
    assert not any((models / "one").iterdir())


@pytest.mark.parametrize("torn", [False, True])
def test_what_is_read_is_of_one_publication(
    models: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """It is published anew while it is read; at times what was read so far doesn't fit what is read then."""
    deploy(models, SOUND)
    found, reads = models / "one", list[bytes]()

    def read(directory: str) -> bytes:
        reads.append((found / "a").read_bytes())
        if len(reads) == 1:
            with replacing(found) as new:
                (new / "config.yml").write_bytes(SOUND["config.yml"])
                (new / "a").write_bytes(b"2")
            if torn:
                raise DamagedArtifact("files don't fit")
        return reads[-1]

    monkeypatch.setattr("caikit_pt.module._read", read)
    read_now: tuple[Any, Any] = module._read_whole(str(found))
    assert read_now == (b"2", publication_of(found))
    assert reads == [b"1", b"2"]
    # And what is damaged stays so.
    monkeypatch.setattr("caikit_pt.module._read", _fail)
    with pytest.raises(DamagedArtifact):
        module._read_whole(str(found))


def _fail(directory: str) -> None:
    raise DamagedArtifact("files don't fit")


def test_a_publication_that_has_lost_its_right_is_taken_back(models: Path) -> None:
    """Between the last look and the new name somebody stood still, and another has published meanwhile."""
    for before in (None, b"1"):
        if before:
            deploy(models, SOUND)
        looks = iter([True, False])

        def check(looks: Iterator[bool] = looks) -> None:
            if not next(looks):
                raise KeyError("not ours any more")

        with pytest.raises(KeyError), replacing(models / "one", "job-1", check) as new:
            (new / "a").write_bytes(b"2")
        assert [path.name for path in models.iterdir()] == (["one"] if before else [])
        if before:
            assert (models / "one" / "a").read_bytes() == before


def test_what_others_published_meanwhile_is_not_taken_back(models: Path) -> None:
    """It stood still behind its new name; its heir has tidied up, and a later training has published."""
    for is_first in (True, False):
        if not is_first:
            deploy(models, SOUND)

        def check(seen: list[int]) -> None:
            seen.append(1)
            if len(seen) == 2:
                for left in models.glob(".one.*"):
                    shutil.rmtree(left)
                with replacing(models / "one", "job-2") as new:
                    (new / "config.yml").write_bytes(SOUND["config.yml"])
                    (new / "a").write_bytes(b"later")
                raise KeyError("not ours any more")

        with pytest.raises(KeyError):
            _publish(models / "one", partial(check, list[int]()))
        assert (models / "one" / "a").read_bytes() == b"later"
        shutil.rmtree(models / "one")


def _publish(target: Path, check: Callable[[], None]) -> None:
    with replacing(target, "job-1", check) as new:
        (new / "config.yml").write_bytes(SOUND["config.yml"])
        (new / "a").write_bytes(b"2")
