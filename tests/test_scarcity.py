"""A server that can open no more files says so, and nothing of the files that it couldn't open."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt.base_model.loading import fingerprint
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.loading.work import weight_bytes
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.errors import CaikitPtError, OutOfMemory, TooManyOpenFiles
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import open_file, scarcity
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source_library import find_source
from caikit_pt.tuning.record_file import rows
from tests.conftest import BASE_MODELS, LLAMA, SETTINGS
from tests.runtime.test_rolling import save

# Whatever reads something has so many descriptors, one after the other, until it has enough.
MOST_NEEDED = 40


@contextmanager
def descriptors(free: int) -> Iterator[None]:
    """No more than `free` can be opened inside."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    # All below it may be in use, or not: these are taken, too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 200, limits[1]))
    taken = [probe]
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def prompt(tmp_path: Path, llama: BaseModel) -> Path:
    save(llama, 0, tmp_path / "prompt")
    return tmp_path / "prompt"


def base_model() -> object:
    """Everything that is read of one, nothing of it remembered."""
    fingerprint._check.cache_clear()
    fingerprint._fingerprint.cache_clear()
    checkpoint = locate(LLAMA, SETTINGS)
    return checkpoint.fingerprint, weight_bytes(checkpoint, "float32"), load(checkpoint, "float32", "cpu")


def ends(act: Callable[[], object]) -> bool:
    """Whether it does, or is refused as it should be."""
    try:
        act()
    except TooManyOpenFiles:
        return False
    except CaikitRuntimeException as error:
        if not isinstance(error.__cause__, TooManyOpenFiles):
            raise
        return False
    return True


def tried(act: Callable[[], object]) -> None:
    """With none left, with one, and so on, after what is imported and remembered has been."""
    act()
    outcomes: list[bool] = []
    while True not in outcomes and len(outcomes) < MOST_NEEDED:
        with descriptors(len(outcomes)):
            outcomes.append(ends(act))
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_of_a_base_model() -> None:
    """It was told as a config that can't be read as JSON, in a request that was sound."""
    tried(base_model)


def test_of_a_prompt(prompt: Path, llama: BaseModel) -> None:
    """It was told as data that is lost."""
    tried(lambda: PeftPromptTuning.load(str(prompt), llama))


def test_of_a_source_prompt(prompt: Path, tmp_path: Path, llama: BaseModel) -> None:
    """Its manifest that couldn't be read was none, and whose it is wasn't looked at."""
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copy(prompt / "decoder.safetensors", sources / "one.safetensors")
    now = Settings(base_models_dir=str(BASE_MODELS), source_prompt_base=str(sources))
    tried(lambda: find_source("one", llama.checkpoint, now))


def test_of_records(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"input": "a", "output": "b"}\n')
    tried(lambda: list(rows(tmp_path / "records.jsonl", "records.jsonl")))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EMFILE, TooManyOpenFiles), (errno.ENFILE, TooManyOpenFiles), (errno.ENOMEM, OutOfMemory)],
)
def test_what_the_system_lacks(
    number: int, kind: type[CaikitPtError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(kind) as error:
        open_file(tmp_path / "any")
    monkeypatch.undo()
    assert (error.value.status, bool(error.value.retry_seconds)) == ("RESOURCE_EXHAUSTED", True)


def test_what_libraries_make_of_it() -> None:
    assert isinstance(scarcity(RuntimeError("unable to open: Too many open files (24)")), TooManyOpenFiles)
    assert isinstance(scarcity(Exception("I/O error: Cannot allocate memory (os error 12)")), OutOfMemory)
    wrapped = ValueError("no JSON")
    wrapped.__cause__ = OSError(errno.EMFILE, "x")
    assert isinstance(scarcity(wrapped), TooManyOpenFiles)
    assert scarcity(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert scarcity(None) is None
