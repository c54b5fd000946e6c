"""The files of a checkpoint's weights: whole, or refused with the one that isn't. No weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from caikit_pt.errors import InvalidParameter, in_short

_MOST_NAMED = 5
# What types of models call the number of layers that they build.
_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)
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
            raise broken(name, f"{file.name} can't be read ({in_short(error)})") from error
    for whole, index in ((_WHOLE, _INDEX), (_TORCH_WHOLE, _TORCH_INDEX)):
        if (directory / whole).exists():
            return
        if (directory / index).exists():
            _check_index(name, directory / index)
            return
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("pytorch_model*.bin")):
        raise broken(name, "there is no *.safetensors and no pytorch_model*.bin")


def weight_files(directory: Path) -> list[Path]:
    """Those that transformers reads: other forms of the same weights may lie beside them. For files that
    `check_files` has let pass."""
    for whole, index in ((_WHOLE, _INDEX), (_TORCH_WHOLE, _TORCH_INDEX)):
        if (directory / whole).exists():
            return [directory / whole]
        if (directory / index).exists():
            return sorted(directory / file for file in _indexed(directory / index))
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def check_layers(name: str, directory: Path, config: Mapping[str, Any]) -> None:
    """Raises InvalidParameter where `config` asks for more layers than there are tensors: they would be built
    before anybody finds that their weights are missing."""
    from safetensors import safe_open

    tensors = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            tensors += len(opened.keys())
    for key in _LAYERS:
        value = config.get(key)
        if type(value) is int and value > tensors > 0:
            raise broken(name, f"{key} in config.json is {value:,}, and the files have {tensors:,} tensors")


def broken(name: str, what: str) -> InvalidParameter:
    """A refusal of the base model `name`, whose files aren't whole: `what` is wrong with them."""
    return InvalidParameter(
        "base_model", name, f"a checkpoint whose files are whole; {what}. Fetch or save it again"
    )


def some(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MOST_NAMED])
    return shown if len(ordered) <= _MOST_NAMED else f"{shown} and {len(ordered) - _MOST_NAMED} more"


def _check_index(name: str, index: Path) -> None:
    try:
        files = _indexed(index)
    except Exception as error:  # no JSON, or another one
        raise broken(name, f"{index.name} is no index of weights ({in_short(error)})") from error
    outside = [file for file in files if not isinstance(file, str) or Path(file).name != file]
    if outside:
        raise broken(name, f"{index.name} names {some(map(repr, outside))}, not files beside it")
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise broken(name, f"{index.name} names {some(missing)}, which aren't there")


def _indexed(index: Path) -> set[str]:
    return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
