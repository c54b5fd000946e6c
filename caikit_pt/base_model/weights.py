"""The weights of a checkpoint: whole, and each where it belongs; else it is refused with what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.trial import trial
from caikit_pt.errors import InvalidParameter, in_short

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.checkpoint import Checkpoint

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 5
# In the order in which transformers looks for them.
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH_WHOLE, _TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def check_files(name: str, directory: Path) -> None:
    """Looks at the files of weights, of safetensors at the headers. Raises InvalidParameter with the file.

    Cheap: no weight is read.
    """
    from safetensors import safe_open

    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                _ = tensors.keys()
        except Exception as error:  # torn, no file at all, a link to itself
            raise _broken(name, f"{file.name} can't be read ({in_short(error)})") from error
    for whole, index in ((_WHOLE, _INDEX), (_TORCH_WHOLE, _TORCH_INDEX)):
        if (directory / whole).exists():
            return
        if (directory / index).exists():
            _check_index(name, directory / index)
            return
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("pytorch_model*.bin")):
        raise _broken(name, "there is no *.safetensors and no pytorch_model*.bin")


def read_weights(checkpoint: Checkpoint, dtype: str) -> Any:
    """The model of transformers with its weights in `dtype`, on the CPU.

    Raises InvalidParameter where a tensor is missing, has another shape than the model's or holds a number
    that isn't finite. Tensors that the model has no place for are a warning.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from caikit_pt.base_model.checkpoint import CAUSAL, LOCAL

    auto: Any = AutoModelForCausalLM if checkpoint.family == CAUSAL else AutoModelForSeq2SeqLM
    with trial(checkpoint.name, _reading(checkpoint)), _no_progress_bar():
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


def _check_index(name: str, index: Path) -> None:
    try:
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except Exception as error:  # no JSON, or another one
        raise _broken(name, f"{index.name} is no index of weights ({in_short(error)})") from error
    outside = [file for file in files if not isinstance(file, str) or Path(file).name != file]
    if outside:
        raise _broken(name, f"{index.name} names {_some(map(repr, outside))}, not files beside it")
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise _broken(name, f"{index.name} names {_some(missing)}, which aren't there")


def _check_tensors(name: str, found: dict[str, Any]) -> None:
    """By what transformers tells of a load; tied weights aren't missing to it."""
    if found["missing_keys"]:
        raise _broken(name, f"these tensors are missing: {_some(found['missing_keys'])}")
    if found["mismatched_keys"]:
        shapes = [
            f"{key} {list(there)} where config.json asks for {list(wanted)}"
            for key, there, wanted in found["mismatched_keys"]
        ]
        raise _broken(name, f"these tensors have other shapes: {_some(shapes)}")
    if found["unexpected_keys"]:
        _LOG.warning(
            "%s: its files hold tensors that the model has no place for, and they are left out: %s",
            name,
            _some(found["unexpected_keys"]),
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
        raise _broken(name, f"these tensors hold numbers that aren't finite in {dtype}: {_some(odd)}")


def _broken(name: str, what: str) -> InvalidParameter:
    return InvalidParameter(
        "base_model", name, f"a checkpoint whose files are whole; {what}. Fetch or save it again"
    )


def _some(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MOST_NAMED])
    return shown if len(ordered) <= _MOST_NAMED else f"{shown} and {len(ordered) - _MOST_NAMED} more"


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
