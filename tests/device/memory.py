"""Pinned memory of the host, as far as it can be had without an accelerator: it is remembered what is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


class Pinned:
    """The storages that are pinned. They are held, so that no other gets the address of one."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: Tensor) -> Tensor:
        """`tensor`, whose memory is pinned from now on."""
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage
        return tensor

    def has(self, tensor: Tensor) -> bool:
        """Whether its memory is pinned."""
        return tensor.untyped_storage().data_ptr() in self._storages

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator of host tensors alone."""
        if func is aten.is_pinned.default:
            return self.has(args[0])
        if func is aten._pin_memory.default:
            return self.add(args[0].clone())
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        return self.add(func(*args, **{**kwargs, "pin_memory": False}))
