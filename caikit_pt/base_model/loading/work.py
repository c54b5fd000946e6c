"""What forward passes of a checkpoint take, told by the shapes of its tensors, before a weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.loading.files import opened_tensors, weight_files
from caikit_pt.parameters.tuning import DECODER, ENCODER

# Bytes of each, as safetensors calls them: quantized weights are read as they are.
_WHOLE_NUMBERS = {"I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}


@dataclass(frozen=True, slots=True)
class Work:
    """`weights` in all, and how many of them a token is multiplied with: in the encoder, in the decoder (the
    one stack of a causal model), and in the output layer."""

    weights: int
    encoder: int
    decoder: int
    output: int


def work_of(checkpoint: Checkpoint) -> Work:
    """By the names and shapes of tensors: matrices that have a row for each word are no layers, and of two
    stacks one has "encoder" in its names. Each expert of a mixture counts."""
    vocabulary = int(checkpoint.config.get_text_config().vocab_size)
    output = vocabulary * checkpoint.hidden_size
    weights = encoder = decoder = 0
    for name, shape, _ in _tensors(checkpoint.directory):
        size = math.prod(shape)
        weights += size
        if len(shape) < 2 or shape[0] >= vocabulary or "embed" in name:
            continue
        if "encoder." in name:
            encoder += size
        else:
            decoder += size
    if not weights:
        # Torch files tell no shapes without being read: it is all in the layers but the embedding.
        weights = _numbers_in_torch_files(checkpoint)
        rest = max(0, weights - output)
        encoder, decoder = (rest // 2, rest // 2) if ENCODER in checkpoint.prompt_parts else (0, rest)
    return Work(weights, encoder, decoder, output)


def tokens_read(
    checkpoint: Checkpoint, rows: int, sources: int, targets: int, prompts: Mapping[str, int], updates: int
) -> tuple[int, int]:
    """By encoder and decoder, in forward passes of `rows` with `sources` and `targets` tokens in all.

    `prompts` has the tokens of each part; those of a causal model are read once an update.
    """
    if ENCODER not in checkpoint.prompt_parts:
        return 0, sources + targets + updates * prompts.get(DECODER, 0)
    return sources + rows * prompts.get(ENCODER, 0), targets + rows * prompts.get(DECODER, 0)


def weight_bytes(checkpoint: Checkpoint, dtype: str) -> int:
    """What its weights take in memory, those of floating point in `dtype`, others as they are."""
    size = _item_bytes(dtype)
    told = [
        math.prod(shape) * (_WHOLE_NUMBERS.get(stored) or size)
        for _, shape, stored in _tensors(checkpoint.directory)
    ]
    return sum(told) if told else _numbers_in_torch_files(checkpoint) * size


def _tensors(directory: Path) -> Iterator[tuple[str, list[int], str]]:
    """Name, shape and type of each in files that tell of them: none of Torch's do."""
    for file in weight_files(directory):
        if file.suffix == ".safetensors":
            with opened_tensors(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no dictionary)
                    part = tensors.get_slice(name)
                    yield name, part.get_shape(), part.get_dtype()


def _numbers_in_torch_files(checkpoint: Checkpoint) -> int:
    size = sum(file.stat().st_size for file in weight_files(checkpoint.directory))
    return size // _item_bytes(checkpoint.dtype)


def _item_bytes(dtype: str) -> int:
    import torch

    return int(getattr(torch, dtype).itemsize)
