"""How fast this machine multiplies matrices: the best that any way of doing it reached."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.training.clock import seconds
from caikit_pt.base_model.layers.linear import freeze_linears

_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_REPEATS = {"cpu": 2, "cuda": 20}


class MatmulPeak:
    """The peak of one data type on one device, measured a little in every round."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._device = device
        self._repeats = _REPEATS[device]
        self._products = [
            (2 * size**3, product) for size in _SIZES[device] for product in _products(size, dtype, device)
        ]
        self.best = 0.0  # operations a second

    def measure(self) -> None:
        """One more try of every product."""
        with torch.no_grad():
            for operations, product in self._products:
                product()
                spent = seconds(lambda: [product() for _ in range(self._repeats)], self._device)  # noqa: B023
                self.best = max(self.best, self._repeats * operations / spent)


def _products(size: int, dtype: torch.dtype, device: str) -> list[Callable[[], torch.Tensor]]:
    """A square product as torch's matmul, as a Linear, and as the product's own Linear."""
    x = torch.randn(size, size, device=device, dtype=dtype)
    plain = torch.nn.Linear(size, size, bias=False, device=device, dtype=dtype).requires_grad_(False)
    frozen = torch.nn.Sequential(
        torch.nn.Linear(size, size, bias=False, device=device, dtype=dtype).requires_grad_(False)
    )
    freeze_linears(frozen)
    return [lambda: x @ plain.weight, lambda: plain(x), lambda: frozen(x)]
