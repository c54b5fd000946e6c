"""Pinned memory of the host, as far as it can be had without an accelerator: it is remembered what is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .record import Kind
from .rules import Refused, kind_of, tensors_in

aten = torch.ops.aten


class Pinned:
    """The storages that are pinned. They are held, so that no other gets the address of one."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._on_their_way: set[int] = set()

    def add(self, tensor: Tensor) -> Tensor:
        """`tensor`, whose memory is pinned from now on."""
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage
        return tensor

    def has(self, tensor: Tensor) -> bool:
        """Whether its memory is pinned."""
        return tensor.untyped_storage().data_ptr() in self._storages

    def leaves_for(self, tensor: Tensor) -> None:
        """Numbers are on their way to `tensor`, and nobody has waited for them."""
        self._on_their_way.add(tensor.untyped_storage().data_ptr())

    def all_arrived(self) -> None:
        """The host has waited for the device."""
        self._on_their_way.clear()

    def check(self, tensor: Tensor) -> None:
        """Raises where the numbers of a host tensor are looked at before they are there; CUDA doesn't."""
        if tensor.device.type != "cpu" or not self._on_their_way:
            return
        if tensor.untyped_storage().data_ptr() in self._on_their_way:
            raise Refused("numbers are looked at that may not have arrived: nobody has waited for them")

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator of host tensors alone."""
        if func is aten.is_pinned.default:
            return self.has(args[0])
        if func is aten._pin_memory.default:
            return self.add(args[0].clone())
        if self._on_their_way and kind_of(func) is Kind.COMPUTE:
            for each in tensors_in((*args, *kwargs.values())):
                self.check(each)
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        return self.add(func(*args, **{**kwargs, "pin_memory": False}))
