"""Small tensors that a pass is told by, sent to its device in one copy that nobody waits for.

From ordinary memory the host would wait for each of them, until all is computed that was asked for before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Every type can be looked at from such an address on.
_ALIGNMENT = 16


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """`tensors` of the host, of any types and shapes, on `device`. On a CPU they are themselves."""
    if device.type == "cpu":
        return list(tensors)
    begins, end = [], 0
    for tensor in tensors:
        begins.append(end)
        end += math.ceil(tensor.nbytes / _ALIGNMENT) * _ALIGNMENT
    staged = torch.empty(end, dtype=torch.uint8, pin_memory=True)
    for begin, tensor in zip(begins, tensors, strict=True):
        if tensor.numel():
            staged[begin : begin + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    sent = staged.to(device, non_blocking=True)
    return [
        sent[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for begin, tensor in zip(begins, tensors, strict=True)
    ]
