"""Numbers between the host and a device: one copy there that nobody waits for, one back that is waited for.

A copy to a device makes the host wait unless it comes from pinned memory, and each costs what a kernel
costs. So what a pass needs is put together on the host and sent at once. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

# What was put into a parcel, where it went; to be asked after it was sent.
Sent: TypeAlias = Callable[[], Tensor]
_ALIGNED = 8  # bytes that every number of torch's starts at a multiple of


class Parcel:
    """Tensors of the host on their way to `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._packed: list[Tensor] = []
        self._arrived: list[Tensor] | None = None

    def add(self, numbers: Tensor) -> Sent:
        """Puts in a tensor of any shape and data type; one that is on the device stays where it is."""
        if numbers.device == self.device:
            return lambda: numbers
        assert self._arrived is None, "it is on its way"
        place = len(self._packed)
        self._packed.append(numbers.detach())

        def arrived() -> Tensor:
            assert self._arrived is not None, "it wasn't sent"
            return self._arrived[place]

        return arrived

    def send(self) -> None:
        """All in one copy, which is under way when this returns."""
        ends = [0]
        for each in self._packed:
            ends.append(ends[-1] + -(-each.nbytes // _ALIGNED) * _ALIGNED)
        if not self._packed:
            self._arrived = []
            return
        pinned = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=True)
        for begin, each in zip(ends, self._packed, strict=False):
            _part(pinned, begin, each).copy_(each)
        there = pinned.to(self.device, non_blocking=True)
        self._arrived = [_part(there, begin, each) for begin, each in zip(ends, self._packed, strict=False)]
        self._packed = []


def _part(together: Tensor, begin: int, like: Tensor) -> Tensor:
    """The bytes [N] from `begin` on as a tensor like another one."""
    return together[begin : begin + like.nbytes].view(like.dtype).view(like.shape)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, alone."""
    return upload([numbers], device)[0]


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host, of any types and shapes, on `device`, in one copy; on a CPU as they are."""
    parcel = Parcel(device)
    there = [parcel.add(each) for each in tensors]
    parcel.send()
    return [each() for each in there]


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device on the host, in one copy: the host waits once.

    They travel as float64, which holds every number of float32 and every index exactly.
    """
    if all(each.device.type == "cpu" for each in tensors):
        return list(tensors)
    together = torch.cat([each.reshape(-1).double() for each in tensors]).cpu()
    parts = torch.split(together, [each.numel() for each in tensors])
    return [part.view(each.shape).to(each.dtype) for part, each in zip(parts, tensors, strict=True)]
