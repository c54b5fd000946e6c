"""Models with random weights, made from a shape; one set of weights for all who measure with it."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from bench.training.case import Case
from bench.training.shapes import Shape
from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.frozen import freeze as freeze_weights
from caikit_pt.base_model.layers.linear import freeze_linears
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel


def model(case: Case) -> Any:
    """A model of transformers, frozen. The caller may change all of it but its weights."""
    return _copy(case.shape, case.torch_dtype, case.device)


def base(case: Case, packable: bool = True) -> BaseModel:
    """The model as caikit_pt loads it from a checkpoint; without `packable`, one that has to be padded."""
    return _base(case.shape, case.torch_dtype, case.device, packable)


def freeze(network: Any) -> Any:
    """`network` with the product's linear layers."""
    freeze_linears(network)
    return network


def copy_with_shared_weights(network: Any) -> Any:
    """Another model with the same weights in memory."""
    # deepcopy takes what stands in the memo for copied already.
    return copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})


@cache
def _base(shape: Shape, dtype: torch.dtype, device: str, packable: bool) -> BaseModel:
    network = _copy(shape, dtype, device)
    checkpoint = Checkpoint(shape.name, Path(), network.config)
    frozen = freeze_weights(network)
    frozen = frozen if packable else FrozenWeights(network)
    return BaseModel(checkpoint, frozen, _NoTokenizer(shape.vocabulary))


def _copy(shape: Shape, dtype: torch.dtype, device: str) -> Any:
    return copy_with_shared_weights(_original(shape, dtype, device))


@cache
def _original(shape: Shape, dtype: torch.dtype, device: str) -> Any:
    auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSeq2SeqLM
    torch.manual_seed(0)
    with torch.device(device):
        return auto.from_config(shape.config(), dtype=dtype).eval().requires_grad_(False)


class _NoTokenizer(SimpleNamespace):
    """What a base model asks of a tokenizer where records are token ids already."""

    eos_token_id = 1
    all_special_ids = (0, 1)

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return self._vocabulary
