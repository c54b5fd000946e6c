"""What is told of a model by the shapes of its tensors is what its modules say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from caikit_pt.base_model.loading.checkpoint import opened
from caikit_pt.base_model.loading.work import tokens_read, weight_bytes, work_of
from caikit_pt.base_model.model import BaseModel
from tests.conftest import BASE_MODELS


def linear(module: Any) -> int:
    """Weights of all its linear layers."""
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, torch.nn.Linear))


def test_the_layers_of_a_causal_model(llama: BaseModel) -> None:
    work = work_of(llama.checkpoint)
    assert (work.encoder, work.decoder) == (0, linear(llama.weights.model.model))
    assert work.output == llama.weights.model.lm_head.weight.numel()
    assert work.weights == sum(weight.numel() for weight in llama.weights.model.parameters())


def test_the_layers_of_an_encoder_and_a_decoder(t5: BaseModel) -> None:
    work = work_of(t5.checkpoint)
    biases = 2 * t5.weights.model.config.relative_attention_num_buckets * t5.weights.model.config.num_heads
    counted = work.encoder + work.decoder
    assert abs(counted - linear(t5.weights.model.encoder) - linear(t5.weights.model.decoder)) <= biases
    assert abs(work.decoder - linear(t5.weights.model.decoder)) <= biases
    assert work.output == t5.weights.model.shared.weight.numel()


def test_torch_files_are_estimated(llama: BaseModel, tmp_path: Path) -> None:
    shutil.copytree(BASE_MODELS / llama.checkpoint.name, tmp_path / "torch")
    (tmp_path / "torch" / "model.safetensors").unlink()
    tensors = {name: weight.to(torch.bfloat16) for name, weight in llama.weights.model.state_dict().items()}
    torch.save(tensors, tmp_path / "torch" / "pytorch_model.bin")
    estimated, told = work_of(opened("torch", tmp_path / "torch")), work_of(llama.checkpoint)
    assert 0.7 < estimated.weights / told.weights < 1.5
    assert estimated.output == told.output


def test_bytes_are_those_in_memory_of_the_files_that_are_read(llama: BaseModel, tmp_path: Path) -> None:
    parameters = sum(weight.numel() for weight in llama.weights.model.parameters())
    assert weight_bytes(llama.checkpoint, "float32") == 4 * parameters
    assert weight_bytes(llama.checkpoint, "bfloat16") == 2 * parameters
    # As some repositories have them: the same once more, in another form.
    directory = shutil.copytree(BASE_MODELS / llama.checkpoint.name, tmp_path / "twice")
    shutil.copy(directory / "model.safetensors", directory / "consolidated.safetensors")
    assert weight_bytes(opened("twice", directory), "float32") == 4 * parameters
    # In parts, with what is quantized as it is.
    (directory / "model.safetensors").unlink()
    (directory / "consolidated.safetensors").unlink()
    parts = {"a.safetensors": torch.zeros(10, dtype=torch.float32), "b.safetensors": torch.zeros(7).char()}
    for file, tensor in parts.items():
        save_file({file: tensor}, directory / file)
    index = {"weight_map": dict(zip(parts, parts, strict=True))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(opened("parts", directory), "bfloat16") == 2 * 10 + 7


def test_a_prompt_is_read_once_an_update_or_in_each_row(llama: BaseModel, t5: BaseModel) -> None:
    assert tokens_read(llama.checkpoint, 10, 100, 20, {"DECODER": 5}, 2) == (0, 100 + 20 + 2 * 5)
    assert tokens_read(t5.checkpoint, 10, 100, 20, {"ENCODER": 5, "DECODER": 3}, 2) == (
        100 + 10 * 5,
        20 + 10 * 3,
    )
