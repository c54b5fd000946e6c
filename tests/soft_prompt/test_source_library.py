"""Source prompts under their root: published by many at once, killed in between, found by name or without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt import source_publication
from caikit_pt.soft_prompt.source import UnusableSource
from caikit_pt.soft_prompt.source_bundle import FILES
from caikit_pt.soft_prompt.source_library import SourceLibrary, find_source, read_path
from caikit_pt.soft_prompt.source_publication import publish_version
from examples.local_server import ROOT
from tests.conftest import write_source

from .sources import TASKS, drawn, published

# Publishes again and again under one name until it has done so as often as it is told to.
PUBLISHER = """
import sys
from pathlib import Path
from caikit_pt.soft_prompt.source_publication import publish_version

target, mark, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    def write(directory):
        for file in "abc":
            (directory / file).write_text(f"{mark}.{number}")
    print(publish_version(target, write), flush=True)
"""


def publisher(target: Path, mark: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(target), mark, str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def find(root: Path, name: str, checkpoint: Checkpoint, tokens: int | None = None) -> str:
    return find_source(name, checkpoint, Settings(source_prompt_base=str(root)), tokens).name


# ---- publication ----


def test_versions_are_counted_and_stay(llama: BaseModel, tmp_path: Path) -> None:
    names = [published(tmp_path, llama.checkpoint, tokens=tokens).name for tokens in (3, 4, 5)]
    assert names == ["mine/1", "mine/2", "mine/3"]
    library = SourceLibrary(tmp_path)
    assert [library.read(name).num_virtual_tokens for name in (*names, "mine")] == [3, 4, 5, 5]
    for number in range(4, 12):
        (tmp_path / "mine" / "1").rename(tmp_path / "mine" / str(number))
        assert library.read("mine").name == f"mine/{number}"
        (tmp_path / "mine" / str(number)).rename(tmp_path / "mine" / "1")
    assert [card.name for card in library.cards()] == ["mine/3", "mine/2", "mine/1"]


def test_many_publish_at_once(tmp_path: Path) -> None:
    """Each version is one's, whole, and nobody's is lost."""
    publishers = [publisher(tmp_path / "mine", mark, 20) for mark in "xyz"]
    told = [set(one.communicate(timeout=60)[0].split()) for one in publishers]
    assert [one.returncode for one in publishers] == [0, 0, 0]
    assert set.union(*told) == {str(number) for number in range(1, 61)}
    contents = set()
    for number in range(1, 61):
        (content,) = {(tmp_path / "mine" / str(number) / file).read_text() for file in "abc"}
        contents.add(content)
    assert contents == {f"{mark}.{number}" for mark in "xyz" for number in range(20)}
    assert not list((tmp_path / "mine").glob(".*.new"))


def test_killed_in_the_middle_there_are_whole_versions_and_no_others(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    for delay in (0.0, 0.01, 0.02, 0.03, 0.05):
        one = publisher(target, "killed", 1000)
        assert one.stdout is not None
        one.stdout.readline()
        time.sleep(delay)
        one.kill()
        one.wait()
        one.stdout.close()
    versions = [path for path in target.iterdir() if path.name.isdecimal()]
    assert len(versions) >= 5
    assert all({file.name for file in version.iterdir()} == set("abc") for version in versions)
    newest = max(int(version.name) for version in versions)
    assert publish_version(target, lambda new: (new / "a").write_text("b")) == newest + 1
    assert not list(target.glob(".*.new"))


def test_what_fails_leaves_nothing(llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    published(tmp_path, llama.checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(source_publication, "to_disk", full)
        with pytest.raises(OSError, match="No space"):
            published(tmp_path, llama.checkpoint)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {".lock", "1"}
    assert published(tmp_path, llama.checkpoint).name == "mine/2"


def test_one_who_takes_no_turn_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose locks aren't seen elsewhere."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "theirs").write_text("theirs")
    (tmp_path / "2").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(source_publication, "versions_in", lambda _: [])
    assert publish_version(tmp_path, lambda new: (new / "a").write_text("b")) == 3
    assert (tmp_path / "1" / "theirs").read_text() == "theirs"
    assert (tmp_path / "2").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/tmp/x", "a//b", "a/", ".hidden", "a/.b", "a b", "a\n", "a\\b",
     "a\0", "\u202ea", "7", "a/7", "7/a", "a.safetensors", "a.bin", "x" * 201, "x/" * 600 + "x"],
)  # fmt: skip
def test_names_that_nothing_is_published_under(llama: BaseModel, tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InvalidSourcePrompt):
        published(root, llama.checkpoint, name)
    assert list(tmp_path.rglob("*")) == [root]


def test_names_that_lead_elsewhere(llama: BaseModel, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root, outside):
        directory.mkdir()
    published(outside, llama.checkpoint)
    (root / "away").symlink_to(outside)
    (root / "mine").symlink_to(outside / "mine")
    (root / "own").mkdir()
    (root / "own" / "1").symlink_to(outside / "mine" / "1")
    for name in ("away/new", "mine"):
        with pytest.raises(InvalidSourcePrompt, match="stays inside"):
            published(root, llama.checkpoint, name)
    for name in ("away/mine", "mine", "mine/1", "own", "own/1"):
        with pytest.raises(InvalidSourcePrompt, match="stays inside"):
            find(root, name, llama.checkpoint)
    assert list(SourceLibrary(root).cards()) == []
    with pytest.raises(InvalidSourcePrompt, match="its sources: none"):
        find(root, "", llama.checkpoint)


def test_a_name_that_something_else_has(llama: BaseModel, tmp_path: Path) -> None:
    write_source(tmp_path / "flat", llama.checkpoint)
    (tmp_path / "adapter").mkdir()
    save_file({"prompt_embeddings": drawn(llama.checkpoint).shared}, tmp_path / "adapter" / FILES[0])
    for name in ("flat", "adapter"):
        with pytest.raises(InvalidSourcePrompt, match="another name"):
            published(tmp_path, llama.checkpoint, name)
    assert published(tmp_path, llama.checkpoint, "flat/more").name == "flat/more/1"


def test_what_is_hidden_is_not_found(llama: BaseModel, tmp_path: Path) -> None:
    published(tmp_path, llama.checkpoint)
    os.rename(tmp_path / "mine" / "1", tmp_path / "mine" / ".half.new")
    for name in ("mine", "mine/.half.new"):
        with pytest.raises(InvalidSourcePrompt, match="none yet"):
            find(tmp_path, name, llama.checkpoint)
    assert list(SourceLibrary(tmp_path).cards()) == []


# ---- lookup ----


def test_by_a_relative_name(llama: BaseModel, tmp_path: Path) -> None:
    published(tmp_path, llama.checkpoint, "group/mine")
    published(tmp_path, llama.checkpoint, "group/mine")
    for name, found in {"group/mine": 2, "./group/mine": 2, "group/mine/1": 1, "group/mine/2": 2}.items():
        assert find(tmp_path, name, llama.checkpoint) == f"group/mine/{found}"
    for name in ("group", "mine", "group/mine/3", "group/mine/0", "group/mine/01", "group/mine/1/1"):
        with pytest.raises(InvalidSourcePrompt, match=r"there: group/mine\)"):
            find(tmp_path, name, llama.checkpoint)


def test_by_nothing_the_newest_that_matches(llama: BaseModel, t5: BaseModel, tmp_path: Path) -> None:
    """Of each name its newest version that does."""
    checkpoint = llama.checkpoint
    published(tmp_path, t5.checkpoint, "other")
    with pytest.raises(InvalidSourcePrompt, match="its sources: none"):
        find(tmp_path, "", checkpoint)
    write_source(tmp_path / "flat", checkpoint)
    assert find(tmp_path, "", checkpoint) == "flat"
    published(tmp_path, checkpoint, "b", tokens=4)
    published(tmp_path, checkpoint, "a", tokens=3)
    assert find(tmp_path, "", checkpoint) == "a/1"
    assert find(tmp_path, "", checkpoint, 4) == "b/1"
    assert find(tmp_path, "", checkpoint, 6) == "flat"
    published(tmp_path, checkpoint, "b", tokens=3)
    assert find(tmp_path, "", checkpoint, 3) == "b/2"
    assert find(tmp_path, "", checkpoint, 4) == "b/1"
    # Nobody has so many: the plan says how many there are.
    assert find(tmp_path, "", checkpoint, 9) == "b/2"
    assert find(tmp_path, "", t5.checkpoint) == "other/1"


def test_a_name_may_have_had_other_base_models(llama: BaseModel, t5: BaseModel, tmp_path: Path) -> None:
    published(tmp_path, llama.checkpoint)
    published(tmp_path, t5.checkpoint)
    assert find(tmp_path, "", llama.checkpoint) == "mine/1"
    assert find(tmp_path, "", t5.checkpoint) == "mine/2"
    with pytest.raises(InvalidSourcePrompt, match="this one is for tiny-t5"):
        find(tmp_path, "mine", llama.checkpoint)


def test_one_file_of_a_bundle_is_no_source(llama: BaseModel, tmp_path: Path) -> None:
    """As when a copy of it was broken off, wherever that was to be."""
    published(tmp_path, llama.checkpoint)
    file = tmp_path / "mine" / "1" / FILES[0]
    (tmp_path / "flat.safetensors").write_bytes(file.read_bytes())
    for path in (file, tmp_path / "flat.safetensors"):
        with pytest.raises(UnusableSource, match="name the directory with all of them"):
            read_path(path)
    with pytest.raises(InvalidSourcePrompt, match="name the directory with all of them"):
        find(tmp_path, "flat", llama.checkpoint)
    (tmp_path / "mine" / "1" / "manifest.json").unlink()
    with pytest.raises(UnusableSource, match=r"manifest\.json is missing"):
        read_path(tmp_path / "mine" / "1")


def test_by_nothing_the_one_that_is_called_the_default(llama: BaseModel, tmp_path: Path) -> None:
    checkpoint = llama.checkpoint
    published(tmp_path, checkpoint, "a", default=True)
    published(tmp_path, checkpoint, "b", tokens=4)
    assert find(tmp_path, "", checkpoint) == "a/1"
    assert find(tmp_path, "", checkpoint, 4) == "b/1"
    write_source(tmp_path / "flat", checkpoint, default=True)
    with pytest.raises(InvalidSourcePrompt, match=r"2 sources are the default .*its sources: a/1, b/1, flat"):
        find(tmp_path, "", checkpoint)
    published(tmp_path, checkpoint, "a")
    assert find(tmp_path, "", checkpoint) == "flat"


def test_by_nothing_what_is_damaged_is_passed_over(
    llama: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published(tmp_path, llama.checkpoint, "a")
    published(tmp_path, llama.checkpoint, "b")
    (tmp_path / "b" / "1" / "manifest.json").write_text("{")
    assert find(tmp_path, "", llama.checkpoint) == "a/1"
    assert "b/1 is passed over: manifest.json: it is no JSON" in caplog.text
    os.mkdir(tmp_path / "b" / "2")
    with pytest.raises(InvalidSourcePrompt, match=r"manifest\.json is missing"):
        find(tmp_path, "b", llama.checkpoint)


def test_directories_of_others_may_be_numbers(llama: BaseModel, tmp_path: Path) -> None:
    """As they were before there were versions."""
    (tmp_path / "team" / "2024").mkdir(parents=True)
    write_source(tmp_path / "team" / "2024" / "good", llama.checkpoint)
    (tmp_path / "team" / "7").mkdir()
    save_file({"prompt_embeddings": drawn(llama.checkpoint).shared}, tmp_path / "team" / "7" / FILES[0])
    assert [card.name for card in SourceLibrary(tmp_path).cards()] == ["team/7", "team/2024/good"]
    assert find(tmp_path, "team/2024/good", llama.checkpoint) == "team/2024/good"
    assert find(tmp_path, "team/7", llama.checkpoint) == "team/7"


def test_a_file_tells_its_tasks_tokens_and_base_model(llama: BaseModel, tmp_path: Path) -> None:
    write_source(tmp_path / "flat", llama.checkpoint, default=True)
    (card,) = SourceLibrary(tmp_path).cards()
    assert (card.name, card.version, card.num_virtual_tokens, card.width) == ("flat", 0, 6, 128)
    assert (card.tasks, card.default, card.created) == (("first", "second"), True, None)
    source = SourceLibrary(tmp_path).read("flat")
    assert torch.equal(source.task("second"), source.task(1))
    (tmp_path / "flat.json").write_text(json.dumps({"tasks": ["only one"], "base_model": ["a"]}))
    (card,) = SourceLibrary(tmp_path).cards()
    assert card.base_model == ""
    assert SourceLibrary(tmp_path).read("flat").tasks == ()


def test_what_nobody_can_be_told_is_left_out(llama: BaseModel, tmp_path: Path) -> None:
    """A list of all sources would fail over one of them."""
    write_source(tmp_path / "flat", llama.checkpoint)
    told = {"base_model": "\ud800", "fingerprint": "x" * 5000, "tasks": ["a", "\x1b[2J"]}
    (tmp_path / "flat.json").write_text(json.dumps(told))
    header = {"prompt_embeddings": {"dtype": "F32", "shape": [2**70, 128], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    (tmp_path / "huge.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    write_source(tmp_path / "\udcff\udcfe" / "a", llama.checkpoint)
    cards = {card.name: card for card in SourceLibrary(tmp_path).cards()}
    assert set(cards) == {"flat", "huge", "\udcff\udcfe/a"}
    assert (cards["flat"].base_model, cards["flat"].fingerprint, cards["flat"].tasks) == ("", "", ())
    assert cards["huge"].num_virtual_tokens == 0
    for name in ("nothing", "\ud800"):
        with pytest.raises(InvalidSourcePrompt, match=r"there: flat, huge\)|stays inside"):
            find(tmp_path, name, llama.checkpoint)


def test_a_manifest_beside_a_file_that_is_a_link_out_is_not_read(llama: BaseModel, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_source(root / "flat", llama.checkpoint)
    (root / "flat.json").rename(tmp_path / "secret.json")
    (root / "flat.json").symlink_to(tmp_path / "secret.json")
    (card,) = SourceLibrary(root).cards()
    assert (card.base_model, card.tasks) == ("", ())


# ---- what is given to be published ----


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
def test_files_of_tensors(llama: BaseModel, tmp_path: Path, ending: str) -> None:
    source = drawn(llama.checkpoint)
    file = tmp_path / f"given{ending}"
    tensors = {
        "prompt_embeddings": source.shared,
        "prefix_task_cols": source.columns,
        "prefix_task_rows": source.rows,
    }
    save: Any = save_file if ending == ".safetensors" else torch.save
    save(tensors, file)
    given = read_path(file)
    assert torch.equal(given.average(), source.average())
    assert (read_path(file, submodules=1).num_virtual_tokens, given.tasks) == (5, ())
    with pytest.raises(UnusableSource, match="there are 5 rows for 2"):
        read_path(file, submodules=2)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_numpy(llama: BaseModel, tmp_path: Path, dtype: str, order: Any) -> None:
    rows = np.arange(3 * 128, dtype=np.float32).reshape(3, 128) / 4
    np.save(tmp_path / "prompt.npy", np.asarray(rows.astype(dtype), order=order))
    given = read_path(tmp_path / "prompt.npy")
    assert given.shared.dtype is torch.float32
    assert torch.equal(given.shared, torch.from_numpy(rows))
    root = tmp_path / "root"
    root.mkdir()
    made = SourceLibrary(root).publish("numpy", given, llama.checkpoint)
    assert made.manifest is not None
    assert (made.manifest.tasks, made.manifest.num_ranks, made.name) == ((), 0, "numpy/1")


def test_arrays_that_are_none(tmp_path: Path) -> None:
    def refused(told: str) -> None:
        with pytest.raises(UnusableSource, match=told):
            read_path(tmp_path / "x.npy")

    for array in (np.ones(3), np.ones((2, 3, 4)), np.ones((2, 3), int), np.ones((2, 3), complex)):
        np.save(tmp_path / "x.npy", array)
        refused("not .tokens, width. of floats")
    np.save(tmp_path / "x.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    refused("not .tokens, width. of floats")
    np.save(tmp_path / "x.npy", np.full((2, 3), np.inf))
    refused("finite numbers")
    np.save(tmp_path / "x.npy", np.full((2, 3), 1e300))
    refused("finite numbers")
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    whole = (tmp_path / "x.npy").read_bytes()
    for content, told in {
        whole[:-1]: "other than the bytes",
        whole + b"\0": "other than the bytes",
        whole.replace(b"(2, 3)", b"(2**62, 3)"): "no header",
        whole.replace(b"(2, 3), ", b"(2000000000, 3000000000), "): "header|other than the bytes",
        b"": "no header",
        b"PK\x03\x04": "no header",
        b"\x93NUMPY\x09\x00": "no header",
    }.items():
        (tmp_path / "x.npy").write_bytes(content)
        refused(told)


def test_what_is_no_source_prompt(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.npy")
    for name, told in {
        "nothing": "there is none",
        "empty": "a directory with adapter_model.safetensors",
        "notes.txt": "its name ends in none of",
        "pipe.npy": "there is none",
    }.items():
        with pytest.raises(UnusableSource, match=told):
            read_path(tmp_path / name)


def test_a_bundle_is_published_elsewhere(llama: BaseModel, t5: BaseModel, tmp_path: Path) -> None:
    """With its tasks, its recipe and what it was made with."""
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    one = published(first, llama.checkpoint)
    for path in (first / "mine", first / "mine" / "1"):
        made = SourceLibrary(second).publish("copy", read_path(path), llama.checkpoint)
        assert made.manifest is not None
        assert one.manifest is not None
        assert made.manifest.tasks == TASKS
        assert (made.manifest.recipe, made.manifest.sha256) == (one.manifest.recipe, one.manifest.sha256)
        assert made.manifest.created > one.manifest.created
    with pytest.raises(InvalidSourcePrompt, match="this one is for tiny-llama"):
        SourceLibrary(second).publish("copy", read_path(first / "mine"), t5.checkpoint)
