"""The weights of a checkpoint: whole, and each where it belongs; else it is refused with what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import LOCAL, Checkpoint
from caikit_pt.base_model.loading.files import broken, check_layers, some
from caikit_pt.base_model.loading.trial import trial
from caikit_pt.errors import InvalidParameter

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


def read_weights(checkpoint: Checkpoint, dtype: str) -> Any:
    """The model of transformers with its weights in `dtype`, on the CPU.

    Raises InvalidParameter where a tensor is missing, has another shape than the model's or holds a number
    that isn't finite. Tensors that the model has no place for are a warning.
    """
    import torch
    import transformers

    auto: Any = getattr(transformers, checkpoint.family.auto_class)
    with trial(checkpoint.name, _reading(checkpoint)), _no_progress_bar():
        check_layers(checkpoint.name, checkpoint.directory, vars(checkpoint.config.get_text_config()))
        model, found = auto.from_pretrained(
            checkpoint.directory,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            # So that they are told with their shapes, and refused below.
            ignore_mismatched_sizes=True,
            **LOCAL,
        )
        _check_tensors(checkpoint.name, found)
        _check_numbers(checkpoint.name, model, dtype)
    return model


def _reading(checkpoint: Checkpoint) -> str:
    """The trial in words. Raises InvalidParameter where quantized numbers would be read as plain ones."""
    from transformers.quantizers.auto import AutoHfQuantizer

    config = getattr(checkpoint.config, "quantization_config", None)
    if config is None:
        return "reading its weights"
    values = config if isinstance(config, dict) else config.to_dict()
    method = str(values.get("quant_method"))
    known: Any = AutoHfQuantizer.supports_quant_method
    if "quant_method" in values and not known(values):
        raise InvalidParameter(
            "base_model",
            checkpoint.name,
            f"a model that isn't quantized, or in a way that transformers knows; quant_method is {method!r}",
        )
    return f"reading its weights, which are quantized by {method}"


def _check_tensors(name: str, found: dict[str, Any]) -> None:
    """By what transformers tells of a load; tied weights aren't missing to it."""
    if found["missing_keys"]:
        raise broken(name, f"these tensors are missing: {some(found['missing_keys'])}")
    if found["mismatched_keys"]:
        shapes = [
            f"{key} {list(there)} where config.json asks for {list(wanted)}"
            for key, there, wanted in found["mismatched_keys"]
        ]
        raise broken(name, f"these tensors have other shapes: {some(shapes)}")
    if found["unexpected_keys"]:
        _LOG.warning(
            "%s: its files hold tensors that the model has no place for, and they are left out: %s",
            name,
            some(found["unexpected_keys"]),
        )


def _check_numbers(name: str, model: torch.nn.Module, dtype: str) -> None:
    """One pass over memory: where a sum is finite, all its numbers are."""
    import torch

    odd = [
        key
        for key, weight in model.named_parameters()
        if weight.is_floating_point()
        and not torch.isfinite(weight.detach().sum(dtype=torch.float32))
        and not torch.isfinite(weight.detach()).all()
    ]
    if odd:
        raise broken(name, f"these tensors hold numbers that aren't finite in {dtype}: {some(odd)}")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Nobody watches a server load its weights."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
