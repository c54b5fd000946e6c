"""Tensors in a file: safetensors, or a torch file read without unpickling anything but tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import CaikitPtError
from caikit_pt.paths import open_file, read_file

if TYPE_CHECKING:
    import torch

SAFETENSORS = ".safetensors"
TORCH = (".bin", ".pt")
WHOLE = ""
# Twice a soft prompt of 4,096 tokens and a width of 65,536.
LARGEST = 2**31  # bytes
_LARGEST_HEADER = 2**20  # bytes


def read_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors in `file` by name, float32 on the CPU; a file that is one tensor has the name "".

    Raises ValueError where the file is anything else; TooManyOpenFiles, OutOfMemory.
    """
    import torch
    from safetensors.torch import load

    tensors: Any
    try:
        if file.suffix == SAFETENSORS:
            tensors = load(read_file(file, LARGEST))
        elif file.suffix in TORCH:
            with open_file(file) as opened:
                tensors = torch.load(opened, map_location="cpu", weights_only=True)
        else:
            raise ValueError("unknown ending")
    except CaikitPtError:
        raise
    except OSError as error:
        raise ValueError(f"{file.name} can't be read as tensors ({error.strerror})") from error
    except Exception as error:  # the unpickler fails with whatever a damaged file leads it to
        raise ValueError(f"{file.name} can't be read as tensors") from error
    if isinstance(tensors, torch.Tensor):
        tensors = {WHOLE: tensors}
    if not isinstance(tensors, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise ValueError(f"{file.name} holds something other than tensors")
    # Copies of what was read, all of which would stay as long as one tensor of it.
    return {str(name): tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}


def read_header(file: Path) -> Mapping[str, Any]:
    """What a safetensors file says of its tensors, by name, and of itself as `__metadata__`; empty where it
    says nothing that is readable. No tensor is read."""
    try:
        with open_file(file) as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length)) if length <= _LARGEST_HEADER else {}
    except (OSError, ValueError, RecursionError, struct.error):
        return {}
    return header if isinstance(header, dict) else {}
