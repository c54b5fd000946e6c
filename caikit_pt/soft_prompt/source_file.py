"""Source prompts as others have written them: peft's checkpoints, files of tensors, and numpy's arrays.

peft's directory has adapter_config.json beside adapter_model.safetensors (or .bin). A file alone
(.safetensors, .bin, .pt) has tensors by peft's names, or is one prompt; google-research's prompt-tuning saves
one as .npy.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.paths import read_file
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.tensor_file import LARGEST, SAFETENSORS, TORCH, WHOLE, read_header, read_tensors

if TYPE_CHECKING:
    import torch

NUMPY = ".npy"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PEFT_CONFIG = "adapter_config.json"
SHARED, COLUMNS, ROWS = "prompt_embeddings", "prefix_task_cols", "prefix_task_rows"
# peft's name, this project's own for a tuned prompt, and a file that is one tensor.
_SHARED = (SHARED, "prompt", WHOLE)
_LARGEST_JSON = 2**20  # bytes
# In the header of a bundle's file of tensors, which is no source without its manifest.
BUNDLE_MARK = "caikit_pt_source"


def read_source_file(file: Path, name: str, submodules: int = 0, tasks: tuple[str, ...] = ()) -> SourcePrompt:
    """The source prompt in `file`, which is called `name`, its numbers finite.

    With `submodules` 0 it has the sides that an adapter_config.json beside it tells of, else one. `tasks` are
    names, if there are as many as tasks. Raises UnusableSource.
    """
    if is_of_bundle(file):
        allowed = "a source prompt that is whole, as it was published"
        raise UnusableSource(allowed, f"{file.name} is one file of it: name the directory with all of them")
    tensors = _tensors(file)
    shared = next((tensors[key] for key in _SHARED if key in tensors), None)
    if shared is None:
        raise UnusableSource(f"a file with {SHARED} [tokens, width]")
    columns = tensors.get(COLUMNS)
    named = columns is not None and columns.ndim > 0 and len(tasks) == columns.shape[0]
    source = SourcePrompt(
        name,
        shared,
        columns,
        tensors.get(ROWS),
        submodules or _submodules(file, shared),
        tasks if named else (),
    )
    if not source.is_finite:
        raise UnusableSource("a file of finite numbers")
    return source


def shape_in(file: Path) -> tuple[int, int] | None:
    """Tokens and width of the prompt in `file`, without reading it; None where only reading would tell."""
    header = read_header(file) if file.suffix == SAFETENSORS else {}
    for key in _SHARED:
        told = header.get(key)
        shape = told.get("shape") if isinstance(told, dict) else None
        if isinstance(shape, list) and len(shape) == 2 and all(map(_is_size, shape)):
            rows, width = shape
            submodules = _submodules_told(file, rows)
            return rows // submodules, width
    return None


def _is_size(size: object) -> bool:
    return type(size) is int and 0 < size < LARGEST


def is_of_bundle(file: Path) -> bool:
    """Whether `file` was written as that of a bundle."""
    metadata = read_header(file).get("__metadata__") if file.suffix == SAFETENSORS else None
    return isinstance(metadata, dict) and BUNDLE_MARK in metadata


def object_in(file: Path) -> Mapping[str, Any]:
    """The JSON object in `file`, empty where there is no such file, none of that size or no object in it."""
    try:
        content = json.loads(read_file(file, _LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _tensors(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        if file.suffix == NUMPY:
            return {WHOLE: _read_array(file)}
        if file.suffix not in (SAFETENSORS, *TORCH):
            raise ValueError(f"its name ends in none of {SAFETENSORS}, {', '.join(TORCH)}, {NUMPY}")
        return read_tensors(file)
    except (ValueError, OSError) as error:
        raise UnusableSource("a file of tensors", str(error)) from error


def _read_array(file: Path) -> torch.Tensor:
    """The array [P, H] in a file of numpy as float32. Raises ValueError, OSError.

    Its header is looked through first: numpy makes room for whatever that says.
    """
    import numpy as np
    import torch

    content = read_file(file, LARGEST)
    stream = io.BytesIO(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, _, kind = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # a header is an expression of Python, which fails in many ways
        raise ValueError(f"{file.name} has no header of a numpy array") from error
    if len(shape) != 2 or kind.kind != "f":
        raise ValueError(f"{file.name} is an array {list(shape)} of {kind}, not [tokens, width] of floats")
    if math.prod(shape) * kind.itemsize != len(content) - stream.tell():
        raise ValueError(f"{file.name} has other than the bytes of its array {list(shape)}")
    stream.seek(0)
    array = np.load(stream, allow_pickle=False)
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))


def _submodules(file: Path, shared: torch.Tensor) -> int:
    return _submodules_told(file, int(shared.shape[0])) if shared.ndim else 1


def _submodules_told(file: Path, rows: int) -> int:
    """How many sides the adapter_config.json beside `file` says that its `rows` are for.

    Raises UnusableSource where it contradicts itself or them.
    """
    config = object_in(file.parent / PEFT_CONFIG) if file.name in PEFT_FILES else {}
    told, tokens = config.get("num_transformer_submodules"), config.get("num_virtual_tokens")
    if told is None:
        told = rows // tokens if type(tokens) is int and tokens > 0 and rows % tokens == 0 else 1
    if type(told) is not int or told not in (1, 2):
        raise UnusableSource(
            f"num_transformer_submodules 1 or 2 in its {PEFT_CONFIG}", f"it has {told!r:.80}"
        )
    if tokens is not None and tokens != rows / told:
        raise UnusableSource(
            f"{tokens!r:.80} virtual tokens, as its {PEFT_CONFIG} says, for each of {told}",
            f"there are {rows} rows",
        )
    return told
