"""Linear layers whose weights never change: no weight gradient, and oneDNN's products in float32.

On processors with AVX-512 other than Intel's, torch's own float32 product (MKL) runs at less than half
of oneDNN's speed: 105 against 240 GFLOP/s a core on an AMD EPYC of 2024. oneDNN's arithmetic is float32
as well, not a shorter type: both are off by about 1e-6 of the largest number.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from caikit_pt.cancelling import is_being_cancelled

if TYPE_CHECKING:
    from torch import Tensor

_DTYPE = torch.float32  # what MKL is slow at
_FEW_ROWS = 4  # up to here MKL is as fast, and serving one row at a time stays as it is
_TOLERANCE = 1e-5  # of the largest number


class _Product(torch.autograd.Function):
    """`x W^T + b` of x [..., K] with frozen W [N, K]: only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _product(gradients[0].contiguous(), ctx.weight.t(), None), None, None


class FrozenLinear(torch.nn.Linear):
    """A Linear that is never trained."""

    def forward(self, input: Tensor) -> Tensor:
        if not _suits(input, self.weight):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]


def freeze_linears(model: torch.nn.Module) -> None:
    """Makes every Linear of `model` a FrozenLinear, where oneDNN can be had and is right."""
    if not _onednn_is_right():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = FrozenLinear


def _suits(input: Tensor, weight: Tensor) -> bool:
    return (
        input.dtype is weight.dtype is _DTYPE
        and weight.device.type == "cpu"
        and input.numel() > _FEW_ROWS * input.shape[-1]
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@cache
def _onednn_is_right() -> bool:
    """Whether the operator, which is private to torch, is there and agrees with float64."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 9, 40), (24, 40), (24,)))
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    back = exact @ weight.double()
    try:
        seen = _product(x, weight, bias)
        seen_back = _product(seen, weight.t(), None)
    except (RuntimeError, AttributeError):
        if is_being_cancelled():
            raise
        return False
    return _close(seen, exact) and _close(seen_back, back)


def _close(seen: Tensor, exact: Tensor) -> bool:
    return float((seen - exact).abs().max()) <= _TOLERANCE * float(exact.abs().max())
