"""Bundles of source prompts: the same bits for us and for peft, and refused when anything is changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import MultitaskPromptTuningConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.parameters.tuning import DECODER, ENCODER
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_bundle import FILES, read_bundle
from caikit_pt.soft_prompt.source_library import SourceLibrary, find_source, read_path
from caikit_pt.soft_prompt.source_manifest import FORMAT_VERSION, SourceManifest
from tests.conftest import LLAMA

from .sources import RECIPE, TASKS, drawn, published, same_bits

# In transformers, when peft wraps a model.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def bits_equal(one: SourcePrompt, other: SourcePrompt) -> bool:
    return all(same_bits(getattr(one, part), getattr(other, part)) for part in ("shared", "columns", "rows"))


@pytest.mark.parametrize("tasks", [True, False])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_published_is_what_is_found(
    checkpoint: Checkpoint, tmp_path: Path, rank: int, tasks: bool
) -> None:
    before = datetime.now(UTC)
    given = drawn(checkpoint, rank=rank, tasks=tasks)
    made = published(tmp_path, checkpoint, rank=rank, tasks=tasks)
    found = find_source("mine", checkpoint, Settings(source_prompt_base=str(tmp_path)))
    assert made.name == found.name == "mine/1"
    assert bits_equal(found, given)
    assert found.tasks == given.tasks
    told = found.manifest
    assert told is not None
    assert (told.base_model, told.fingerprint) == (checkpoint.name, checkpoint.fingerprint)
    assert told.tasks == (TASKS if tasks else ())
    assert told.recipe == RECIPE
    assert (told.num_virtual_tokens, told.width, told.num_transformer_submodules) == (5, given.width, 1)
    assert told.num_ranks == (rank if tasks else 0)
    assert {"caikit-pt", "torch", "transformers"} <= set(told.libraries)
    assert before <= told.created <= before + timedelta(minutes=5)


def test_both_sides(t5: BaseModel, tmp_path: Path) -> None:
    published(tmp_path, t5.checkpoint, submodules=2)
    found = find_source("mine", t5.checkpoint, Settings(source_prompt_base=str(tmp_path)))
    given = drawn(t5.checkpoint, submodules=2)
    assert found.columns is not None
    assert found.rows is not None
    assert (found.num_virtual_tokens, len(found.shared)) == (5, 10)
    for part, rows in ((ENCODER, slice(0, 5)), (DECODER, slice(5, 10))):
        side = found.on(part)
        assert torch.equal(side.shared, given.shared[rows])
        matrices = found.columns[:, rows] @ found.rows
        assert torch.equal(side.average(), given.shared[rows] * matrices.mean(dim=0))
        assert torch.equal(side.task("urgency"), given.shared[rows] * matrices[1])
        assert side.on(ENCODER) is side


def test_the_files_are_those_of_the_specification(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """docs/sources.md, to the byte."""
    published(tmp_path, checkpoint)
    directory = tmp_path / "mine" / "1"
    assert {path.name for path in directory.iterdir()} == set(FILES)
    content = (directory / "adapter_model.safetensors").read_bytes()
    told = json.loads((directory / "manifest.json").read_bytes())
    assert told["sha256"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    tokenizer = (checkpoint.directory / "tokenizer.json").read_bytes()
    assert told["tokenizer_sha256"] == f"sha256:{hashlib.sha256(tokenizer).hexdigest()}"
    lines = '["The lamp is great", "good"]\n["Ünicode\u2028", "bad"]\n'
    assert told["tasks"][0]["data_sha256"] == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert (directory / "manifest.json").read_text("utf-8") == (
        json.dumps(told, ensure_ascii=False, indent=2) + "\n"
    )
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.pop("__metadata__") == {"caikit_pt_source": str(FORMAT_VERSION)}
    assert {name: entry["dtype"] for name, entry in header.items()} == dict.fromkeys(
        ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows"), "F32"
    )
    again = published(tmp_path, checkpoint)
    assert again.manifest is not None
    assert again.manifest.sha256 == told["sha256"]


def test_the_specification_names_every_field() -> None:
    from examples.local_server import ROOT

    page = (ROOT / "docs" / "sources.md").read_text("utf-8")
    names = {*SourceManifest.__dataclass_fields__, "format_version", *type(TASKS[0]).__dataclass_fields__}
    assert {name for name in names if f"`{name}`" not in page} == set()
    assert all(f"`{file}`" in page for file in FILES)


# ---- peft ----


def loaded(base: BaseModel) -> Any:
    kind = AutoModelForCausalLM if base.checkpoint.name == LLAMA else AutoModelForSeq2SeqLM
    return kind.from_pretrained(base.checkpoint.directory)


@pytest.mark.parametrize("tasks", [True, False])
def test_peft_loads_what_is_published(base: BaseModel, tmp_path: Path, tasks: bool) -> None:
    """And gives the same prompts, of both sides where there are two."""
    sides = len(base.checkpoint.prompt_parts)
    source = published(tmp_path, base.checkpoint, submodules=sides, tasks=tasks)
    model: Any = PeftModel.from_pretrained(loaded(base), str(tmp_path / "mine" / "1"))
    with torch.no_grad():
        if not tasks:
            assert torch.equal(model.get_prompt(1)[0], source.shared)
            return
        for index in range(2):
            prompt = model.get_prompt(1, torch.tensor([index]))[0]
            torch.testing.assert_close(prompt, source.task(index))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("multitask", [True, False])
@pytest.mark.parametrize("submodules", [None, 1])
def test_what_peft_has_saved_is_read_and_published(
    base: BaseModel, tmp_path: Path, submodules: int | None, multitask: bool, safe: bool
) -> None:
    """None: what peft makes of it, which is two for encoder-decoder models."""
    kind: Any = MultitaskPromptTuningConfig if multitask else PromptTuningConfig
    config = kind(
        task_type=TaskType(base.checkpoint.family.peft_task),
        num_virtual_tokens=4,
        num_transformer_submodules=submodules,
        **({"num_tasks": 3, "num_ranks": 2} if multitask else {}),
    )
    model = get_peft_model(loaded(base), config)
    model.save_pretrained(str(tmp_path / "saved"))
    file = tmp_path / "saved" / "adapter_model.safetensors"
    tensors = load_file(file)
    if not safe:
        torch.save(tensors, file.with_suffix(".bin"))
        file.unlink()
    given = read_path(tmp_path / "saved")
    sides = submodules or len(base.checkpoint.prompt_parts)
    assert (given.submodules, given.num_virtual_tokens) == (sides, 4)
    root = tmp_path / "root"
    root.mkdir()
    SourceLibrary(root).publish("of-peft", given, base.checkpoint)
    found = find_source("of-peft", base.checkpoint, Settings(source_prompt_base=str(root)))
    assert same_bits(found.shared, tensors["prompt_embeddings"])
    assert same_bits(found.columns, tensors.get("prefix_task_cols"))
    assert found.tasks == (("task-0", "task-1", "task-2") if multitask else ())


# ---- damage ----


def changed(**fields: Any) -> Callable[[Path], object]:
    """A manifest whose fields are others; None: it hasn't got them."""

    def change(directory: Path) -> None:
        told = json.loads((directory / "manifest.json").read_text("utf-8"))
        told = {name: value for name, value in {**told, **fields}.items() if value is not None}
        (directory / "manifest.json").write_text(json.dumps(told), "utf-8")

    return change


def written(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / file).write_bytes(content)


def tensors(whole: bool = True, **fields: torch.Tensor) -> Callable[[Path], object]:
    """A file of other tensors, and a manifest that has its SHA-256."""

    def change(directory: Path) -> None:
        file = directory / "adapter_model.safetensors"
        save_file({**(load_file(file) if whole else {}), **fields}, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        changed(sha256=f"sha256:{digest}")(directory)

    return change


def gone(file: str) -> Callable[[Path], object]:
    return lambda directory: (directory / file).unlink()


def linked(file: str) -> Callable[[Path], object]:
    """The file is a link to the same bytes elsewhere."""

    def change(directory: Path) -> None:
        outside = directory.parent / f".{file}"
        (directory / file).rename(outside)
        (directory / file).symlink_to(outside)

    return change


def cut(file: str, size: int) -> Callable[[Path], object]:
    return lambda directory: os.truncate(directory / file, size)


def flipped(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def piped(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    os.mkfifo(directory / "manifest.json")


def peft_config(**fields: Any) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        file = directory / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def twice(directory: Path) -> None:
    file = directory / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('{\n  "format', '{"width": 7,\n  "format'), "utf-8")


TASK = {"name": "mood"}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (flipped, "sha256 of its adapter_model.safetensors is sha256:"),
    "tensors cut short": (cut("adapter_model.safetensors", 500), "sha256 of its adapter_model"),
    "no tensors": (gone("adapter_model.safetensors"), "adapter_model.safetensors is missing"),
    "no peft config": (gone("adapter_config.json"), "adapter_config.json is missing"),
    "no manifest": (gone("manifest.json"), "manifest.json is missing"),
    "a manifest cut short": (cut("manifest.json", 100), "manifest.json: it is no JSON"),
    "an empty manifest": (cut("manifest.json", 0), "manifest.json: it is no JSON"),
    "a manifest of nothing": (written("manifest.json", b"{}"), "manifest.json: format_version is missing"),
    "a manifest that is a list": (written("manifest.json", b"[1]"), "JSON, and no object"),
    "a manifest in UTF-16": (written("manifest.json", "{}".encode("utf-16")), "no JSON in UTF-8"),
    "a manifest without an end": (written("manifest.json", b"[" * 100_000), "no JSON in UTF-8"),
    "nested objects": (written("manifest.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "no JSON"),
    "a manifest of 2 MiB": (written("manifest.json", b" " * 2**21), "more than 1,048,576 bytes"),
    "a pipe for a manifest": (piped, "manifest.json can't be read"),
    "a key twice": (twice, "'width' is there twice"),
    "NaN": (written("manifest.json", b'{"format_version": NaN}'), "NaN is no number of JSON"),
    "a link for a manifest": (linked("manifest.json"), "manifest.json leads out of its directory"),
    "a link for tensors": (linked("adapter_model.safetensors"), "leads out of its directory"),
    "a format of the future": (changed(format_version=2), "format_version is 2, and this release reads"),
    "a format that is a text": (changed(format_version="1"), "format_version is '1', not a whole number"),
    "true for a format": (changed(format_version=True), "format_version is True, not a whole number"),
    "no fingerprint": (changed(fingerprint=None), "fingerprint is missing"),
    "half a fingerprint": (changed(fingerprint="sha256:abc"), "fingerprint is 'sha256:abc', not sha256:"),
    "a list for a name": (changed(base_model=["a"]), r"base_model is \['a'\], not text"),
    "a name that a terminal obeys": (changed(base_model="\x1b[2J"), "base_model is .*that can be shown"),
    "half a surrogate pair": (changed(base_model="\ud800"), "base_model is .*not text"),
    "a name of 5,000 letters": (changed(base_model="x" * 5000), "not text of up to 4,096 characters"),
    "10**9 tokens": (changed(num_virtual_tokens=10**9), "num_virtual_tokens is 1000000000, not"),
    "tokens in part": (changed(num_virtual_tokens=5.0), "num_virtual_tokens is 5.0, not a whole number"),
    "three sides": (changed(num_transformer_submodules=3), "num_transformer_submodules is 3, not"),
    "another width": (changed(width=8), "token_dim is .* in its adapter_config.json, and 8"),
    "another rank": (changed(num_ranks=1), "num_ranks is 2 in its adapter_config.json, and 1"),
    "no rank": (changed(num_ranks=0), "num_ranks is 0 with 2 tasks"),
    "tasks that are none": (changed(tasks=[1, 2]), r"tasks\[0\] is 1, not an object"),
    "a task without a name": (changed(tasks=[TASK, {}]), r"tasks\[1\].name is missing"),
    "a task of no name": (changed(tasks=[TASK, {"name": " "}]), r"tasks\[1\].name is ' ', not"),
    "a task twice": (changed(tasks=[TASK, TASK]), "tasks has a name twice"),
    "a task more": (changed(tasks=[TASK, {"name": "a"}, {"name": "b"}]), "num_tasks is 2"),
    "records below nothing": (changed(tasks=[{**TASK, "records": -1}]), r"tasks\[0\].records is -1"),
    "a metric that is none": (
        changed(tasks=[{**TASK, "metrics": {"accuracy": "high"}}]),
        r"tasks\[0\].metrics.accuracy is 'high', not a finite number",
    ),
    "a metric beyond all numbers": (
        lambda directory: written(
            "manifest.json",
            (directory / "manifest.json").read_bytes().replace(b"0.875", b"1e999"),
        )(directory),
        "metrics.accuracy is inf, not a finite number",
    ),
    "20,000 tasks": (changed(tasks=[{"name": str(n)} for n in range(20_000)]), "tasks is .* up to 1,000"),
    "a recipe of recipes": (changed(recipe={"a": {"b": 1}}), "recipe.a is .*, not text"),
    "a list of libraries": (changed(libraries=["torch"]), "libraries is .*, not an object"),
    "a default of 1": (changed(default=1), "default is 1, not true or false"),
    "a day": (changed(created="2026-01-31"), "created is '2026-01-31', not a moment in UTC"),
    "a month that there isn't": (changed(created="2026-13-01T00:00:00Z"), "not a moment in UTC"),
    "another base model": (changed(fingerprint="sha256:" + "0" * 64), "this one is for .*sha256:0000"),
    "another sha256": (changed(sha256="sha256:" + "0" * 64), "manifest.json has sha256:0000"),
    "no JSON for peft": (written("adapter_config.json", b"{"), "adapter_config.json: it is no JSON"),
    "other tokens for peft": (peft_config(num_virtual_tokens=9), "num_virtual_tokens is 9 in its adapter"),
    "one tensor less": (tensors(False, prompt_embeddings=torch.ones(5, 8)), "tells of prompt_embeddings"),
    "one tensor more": (tensors(more=torch.ones(1)), "tells of prompt_embeddings"),
    "other shapes": (tensors(prefix_task_cols=torch.ones(2, 5, 1)), r"prefix_task_cols \[2, 5, 2\]"),
    "another type": (tensors(prefix_task_cols=torch.ones(2, 5, 2).half()), "torch.float16"),
    "no numbers": (tensors(prefix_task_cols=torch.full((2, 5, 2), torch.nan)), "aren't finite"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_other_than_it_was_is_refused(llama: BaseModel, tmp_path: Path, damage: str) -> None:
    """With the field, by its name and by its number, and what is listed has the problem."""
    change, told = DAMAGES[damage]
    published(tmp_path, llama.checkpoint)
    change(tmp_path / "mine" / "1")
    for name in ("mine", "mine/1"):
        with pytest.raises(InvalidSourcePrompt, match=told) as refused:
            find_source(name, llama.checkpoint, Settings(source_prompt_base=str(tmp_path)))
        assert refused.value.field == "tuning_config.prompt_tuning_init_source_model"
        assert str(tmp_path) not in str(refused.value)
        assert len(str(refused.value)) < 1000
    (card,) = SourceLibrary(tmp_path).cards()
    assert card.name == "mine/1"
    assert str(tmp_path) not in card.problem


def test_what_later_releases_add_is_left_alone(llama: BaseModel, tmp_path: Path) -> None:
    given = published(tmp_path, llama.checkpoint)
    changed(licence="Apache-2.0", more={"a": [1]})(tmp_path / "mine" / "1")
    assert read_bundle(tmp_path / "mine" / "1", "mine/1").manifest == given.manifest


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (lambda checkpoint: drawn(checkpoint, tokens=5000), "num_virtual_tokens is 5000"),
        (lambda checkpoint: SourcePrompt("x", torch.ones(3, 7)), "width 128"),
        (lambda checkpoint: SourcePrompt("x", torch.full((3, 128), torch.inf)), "finite numbers"),
        (lambda checkpoint: drawn(checkpoint, submodules=2), "one side"),
    ],
)
def test_what_nobody_could_use_is_not_published(
    llama: BaseModel, tmp_path: Path, source: Callable[[Checkpoint], SourcePrompt], told: str
) -> None:
    with pytest.raises(InvalidSourcePrompt, match=told):
        SourceLibrary(tmp_path).publish("mine", source(llama.checkpoint), llama.checkpoint)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_there_is_a_task_for_each_of_the_tensors(llama: BaseModel, tmp_path: Path) -> None:
    library, source = SourceLibrary(tmp_path), drawn(llama.checkpoint)
    with pytest.raises(InvalidSourcePrompt, match="a task for each of its 2; 1 are named"):
        library.publish("mine", source, llama.checkpoint, TASKS[:1])
    with pytest.raises(InvalidSourcePrompt, match="tasks has a name twice"):
        library.publish("mine", source, llama.checkpoint, TASKS[:1] * 2)
    with pytest.raises(UnusableSource, match="the names of all 2 tasks; there are 1"):
        SourcePrompt("x", source.shared, source.columns, source.rows, tasks=("mood",))


def test_tasks_by_name_and_by_index(llama: BaseModel, tmp_path: Path) -> None:
    source = published(tmp_path, llama.checkpoint)
    assert torch.equal(source.task("urgency"), source.task(1))
    with pytest.raises(InvalidSourcePrompt, match=r"init_task_name: 'x' .*of mine/1: mood, urgency"):
        source.task("x")
    with pytest.raises(InvalidSourcePrompt, match=r"init_task: 2 .*one of the 2 tasks of mine/1: mood, urg"):
        source.task(2)
    with pytest.raises(InvalidSourcePrompt, match="init_task: -1 "):
        source.task(-1)
    with pytest.raises(InvalidSourcePrompt, match="it has none"):
        drawn(llama.checkpoint, tasks=False).task("mood")
