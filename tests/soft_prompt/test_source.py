"""Source prompts: found by name or by the base model, read from each layout, refused with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source_library import find_source
from caikit_pt.soft_prompt.tensor_file import read_tensors
from tests.conftest import LLAMA, T5, write_source


def settings(root: Path) -> Settings:
    return Settings(source_prompt_base=str(root))


def rows(checkpoint: Checkpoint, tokens: int = 6) -> torch.Tensor:
    return torch.randn(tokens, checkpoint.hidden_size, generator=torch.Generator().manual_seed(1))


def test_a_safetensors_file_with_or_without_its_ending(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "team").mkdir()
    write_source(tmp_path / "team" / "good", checkpoint)
    for name in ("team/good", "team/good.safetensors"):
        source = find_source(name, checkpoint, settings(tmp_path))
        assert (source.num_virtual_tokens, source.num_tasks) == (6, 2)


def test_a_directory_as_peft_saves_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"prompt_embeddings": rows(checkpoint)}, adapter / "adapter_model.safetensors")
    described = {"base_model_name_or_path": f"someone/{checkpoint.name}", "peft_type": "PROMPT_TUNING"}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    assert torch.equal(find_source("adapter", checkpoint, settings(tmp_path)).shared, rows(checkpoint))
    described["base_model_name_or_path"] = "someone/another-model"
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    with pytest.raises(InvalidSourcePrompt, match="another-model"):
        find_source("adapter", checkpoint, settings(tmp_path))


def test_a_directory_of_peft_with_two_sides(tmp_path: Path, llama: BaseModel, t5: BaseModel) -> None:
    """Both are in one tensor, the encoder's first. A model with one side has no use for them."""
    for base in (llama, t5):
        directory = tmp_path / base.checkpoint.name
        directory.mkdir()
        save_file({"prompt_embeddings": rows(base.checkpoint)}, directory / "adapter_model.safetensors")
        both = {"base_model_name_or_path": base.checkpoint.name, "num_transformer_submodules": 2}
        (directory / "adapter_config.json").write_text(json.dumps(both))
    source = find_source(T5, t5.checkpoint, settings(tmp_path))
    assert source.num_virtual_tokens == 3
    assert torch.equal(source.on("ENCODER").shared, rows(t5.checkpoint)[:3])
    assert torch.equal(source.on("DECODER").average(), rows(t5.checkpoint)[3:])
    with pytest.raises(InvalidSourcePrompt, match="one side"):
        find_source(LLAMA, llama.checkpoint, settings(tmp_path))
    (tmp_path / T5 / "adapter_config.json").write_text(json.dumps({**both, "num_virtual_tokens": 6}))
    with pytest.raises(InvalidSourcePrompt, match="6 virtual tokens, as its adapter_config"):
        find_source(T5, t5.checkpoint, settings(tmp_path))


@pytest.mark.parametrize("ending", [".bin", ".pt"])
def test_torch_files_of_tensors(tmp_path: Path, checkpoint: Checkpoint, ending: str) -> None:
    torch.save({"prompt_embeddings": rows(checkpoint)}, tmp_path / f"dict{ending}")
    torch.save(rows(checkpoint).half(), tmp_path / f"bare{ending}")
    for name in ("dict", "bare"):
        source = find_source(name + ending, checkpoint, settings(tmp_path))
        assert source.shared.dtype is torch.float32
        assert source.matrices is None


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_bomb_is_refused_and_not_run(tmp_path: Path, checkpoint: Checkpoint) -> None:
    torch.save({"prompt_embeddings": Bomb()}, tmp_path / "bomb.bin")
    with pytest.raises(InvalidSourcePrompt, match="tensors"):
        find_source("bomb.bin", checkpoint, settings(tmp_path))


def test_a_tuned_prompt_can_be_a_source(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Prompts transfer to related tasks (SPoT, arXiv 2110.07904)."""
    save_file({"prompt": rows(checkpoint)}, tmp_path / "tuned.safetensors")
    assert torch.equal(find_source("tuned", checkpoint, settings(tmp_path)).average(), rows(checkpoint))


def test_pipes_beside_a_source_and_in_its_place_are_not_waited_for(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    save_file({"prompt_embeddings": rows(checkpoint)}, tmp_path / "mine.safetensors")
    os.mkfifo(tmp_path / "mine.json")
    assert torch.equal(find_source("mine", checkpoint, settings(tmp_path)).shared, rows(checkpoint))
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidSourcePrompt):
        find_source("pipe", checkpoint, settings(tmp_path))
    with pytest.raises(ValueError, match="not a regular file"):
        read_tensors(tmp_path / "pipe.safetensors")


def test_the_default_of_a_base_model(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_source(tmp_path / "other", checkpoint, fingerprint="sha256:" + "0" * 64, default=True)
    with pytest.raises(InvalidSourcePrompt, match="a name"):
        find_source("", checkpoint, settings(tmp_path))
    write_source(tmp_path / "only", checkpoint)
    assert find_source("", checkpoint, settings(tmp_path)).name == "only"
    write_source(tmp_path / "second", checkpoint)
    with pytest.raises(InvalidSourcePrompt, match="only, second"):
        find_source("", checkpoint, settings(tmp_path))
    write_source(tmp_path / "second", checkpoint, default=True)
    assert find_source("", checkpoint, settings(tmp_path)).name == "second"


def test_links_inside_the_root_are_followed_and_links_out_of_it_are_not(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root / "versions", outside):
        directory.mkdir(parents=True)
        write_source(directory / "v1", checkpoint)
    (root / "latest.safetensors").symlink_to(root / "versions" / "v1.safetensors")
    (root / "away").symlink_to(outside)
    (root / "file.safetensors").symlink_to(outside / "v1.safetensors")
    assert find_source("latest", checkpoint, settings(root)).num_virtual_tokens == 6
    for name in (
        "away/v1",
        "file",
        "../outside/v1",
        str(outside / "v1.safetensors"),
        "versions/../../outside/v1",
    ):
        with pytest.raises(InvalidSourcePrompt, match="stays inside"):
            find_source(name, checkpoint, settings(root))


@pytest.mark.parametrize(
    "changed",
    [
        {"prefix_task_cols": torch.ones(3, 6, 1)},
        {"prefix_task_cols": torch.ones(2, 5, 1)},
        {"prefix_task_cols": torch.ones(2, 6, 2)},
        {"prefix_task_cols": torch.ones(6, 1)},
        {"prompt_embeddings": torch.full((6, 128), float("nan"))},
        {"prompt_embeddings": torch.ones(6)},
        {"prompt_embeddings": torch.ones(0, 128)},
    ],
)
def test_tensors_that_do_not_go_together(
    tmp_path: Path, checkpoint: Checkpoint, changed: dict[str, torch.Tensor]
) -> None:
    write_source(tmp_path / "bad", checkpoint)
    file = tmp_path / "bad.safetensors"
    save_file({**load_file(file), **changed}, file)
    with pytest.raises(InvalidSourcePrompt):
        find_source("bad", checkpoint, settings(tmp_path))


def test_nothing_is_searched_while_no_root_is_set(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidSourcePrompt, match="SOURCE_PROMPT_BASE"):
        find_source("good", checkpoint, Settings())
