"""What isn't a file is told before anybody opens it: safetensors waits for a pipe, and all others with it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.loading.files import opened_tensors
from caikit_pt.base_model.pool import load
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from tests.conftest import LLAMA

from .test_checkpoint import copy_of

SECONDS_TO_WAIT = 20
READ = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/one.jinja",
    "adapter_config.json",
)


def pipe(place: Path) -> None:
    os.mkfifo(place)


def listener(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        # An address has 107 bytes.
        descriptor = os.open(place.parent, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{descriptor}/{place.name}")
        os.close(descriptor)


def linked(place: Path) -> None:
    place.symlink_to("/dev/zero")


def linked_pipe(place: Path) -> None:
    os.mkfifo(place.parent / "pipe")
    place.symlink_to("pipe")


@contextmanager
def let_go(place: Path) -> Iterator[None]:
    """Whoever waits for the pipe at `place` reads nothing after a while, so that no test hangs."""
    writer = subprocess.Popen(["sh", "-c", f'sleep {SECONDS_TO_WAIT}; : > "$1"', "-", str(place)])
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


def in_place_of(name: str, put: Callable[[Path], object], directory: Path) -> Path:
    """The file `name` of a base model in `directory` is something else."""
    place = copy_of(LLAMA, directory) / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    put(place)
    return place


@pytest.mark.parametrize("name", READ)
def test_a_pipe_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    """A request waited for it for ever; where safetensors did, the whole server did."""
    place = in_place_of(name, pipe, tmp_path)
    settings = Settings(base_models_dir=str(tmp_path))
    with let_go(place), pytest.raises(InvalidParameter, match=f"{place.name} is a pipe") as error:
        load(locate(LLAMA, settings), "float32", "cpu")
    assert error.value.field == "base_model"


@pytest.mark.parametrize(("put", "kind"), [(listener, "socket"), (linked, "device"), (linked_pipe, "pipe")])
def test_so_is_whatever_else_is_no_file(put: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    in_place_of("tokenizer.model", put, tmp_path)
    with (
        let_go(tmp_path / "none"),
        pytest.raises(InvalidParameter, match=rf"(tokenizer.model|pipe) is a {kind}"),
    ):
        locate(LLAMA, Settings(base_models_dir=str(tmp_path)))


def test_one_that_comes_later_is_not_opened(tmp_path: Path) -> None:
    """Between a look at the directory and one at the weights, whoever puts it there."""
    checkpoint = locate(LLAMA, Settings(base_models_dir=str(copy_of(LLAMA, tmp_path).parent)))
    place = checkpoint.directory / "model.safetensors"
    place.unlink()
    os.mkfifo(place)
    with let_go(place):
        with pytest.raises(OSError, match="not a regular file"), opened_tensors(place):
            pass
        with pytest.raises(InvalidParameter, match=r"model\.safetensors.*not a regular file"):
            _ = checkpoint.fingerprint


def test_folders_and_links_to_files_are_no_harm(tmp_path: Path) -> None:
    directory = copy_of(LLAMA, tmp_path)
    (directory / "original").mkdir()
    (directory / "tokenizer.json").rename(tmp_path / "elsewhere")
    (directory / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    assert locate(LLAMA, Settings(base_models_dir=str(tmp_path))).tokenizer
