"""Less memory than there is, so that running out of it can be seen on any device."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(slots=True)
class Taken:
    """Bytes at the beginning, and at most."""

    before: int
    most: int = 0

    def share(self, part: float) -> int:
        """Room for only a part of what was taken."""
        return self.before + int((self.most - self.before) * part)


@contextmanager
def watched(device: str) -> Iterator[Taken]:
    """How much memory is taken inside; of a CPU, how large the largest tensor is."""
    if device == "cpu":
        taken = Taken(0)
        with _Sizes(taken):
            yield taken
        return
    _tidy()
    torch.cuda.reset_peak_memory_stats()
    taken = Taken(torch.cuda.memory_reserved())
    yield taken
    taken.most = torch.cuda.max_memory_reserved()


@contextmanager
def limited(device: str, most: int) -> Iterator[None]:
    """Inside, there are `most` bytes in all; of a CPU, for a single tensor."""
    if device == "cpu":
        with _Sizes(Taken(0), most):
            yield
        return
    _tidy()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _tidy() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


class _Sizes(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """Remembers the largest new tensor, and refuses larger ones than `most`."""

    def __init__(self, taken: Taken, most: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._taken, self._most = taken, most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {_address(one) for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)}
        for one in tree_iter(result):
            # A view takes no memory.
            if isinstance(one, torch.Tensor) and _address(one) not in old:
                self._taken.most = max(self._taken.most, one.nbytes)
                if self._most and one.nbytes > self._most:
                    raise torch.OutOfMemoryError(f"no room for {one.nbytes} bytes, by {func}")
        return result


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
