"""Tensors in a file: safetensors, or a torch file read without unpickling anything but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SAFETENSORS = ".safetensors"
TORCH = (".bin", ".pt")
WHOLE = ""


def read_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors in `file` by name, float32 on the CPU; a file that is one tensor has the name "".

    Raises ValueError where the file is anything else.
    """
    import torch
    from safetensors.torch import load_file

    tensors: Any
    try:
        if file.suffix == SAFETENSORS:
            tensors = load_file(file)
        elif file.suffix in TORCH:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        else:
            raise ValueError("unknown ending")
    except Exception as error:  # the unpickler fails with whatever a damaged file leads it to
        raise ValueError(f"{file.name} can't be read as tensors") from error
    if isinstance(tensors, torch.Tensor):
        tensors = {WHOLE: tensors}
    if not isinstance(tensors, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise ValueError(f"{file.name} holds something other than tensors")
    # Copies: a file that is mapped and cut short afterwards would kill the process that looks at it.
    return {str(name): tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
