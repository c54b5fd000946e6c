"""Linear layers whose weights never change: no weight gradient, and oneDNN's products in float32.

On processors with AVX-512 other than Intel's, torch's own float32 product (MKL) runs at less than half
of oneDNN's speed: 105 against 240 GFLOP/s a core on an AMD EPYC of 2024. oneDNN's arithmetic is float32
as well, not a shorter type: both are off by about 1e-6 of the largest number. For few rows, as in a step
of serving, weights that lie in the order in which oneDNN reads them are up to twice as fast again; they are a
second copy.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_DTYPE = torch.float32  # what MKL is slow at
_ANY_ROWS = 64  # the order of packed weights is the same for all numbers of rows but one
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

    # The weight in oneDNN's order, once `pack_linears` has made it.
    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not _suits(input, self.weight):
            return super().forward(input)
        if not torch.is_grad_enabled():
            return _product(input, self.weight if self.packed is None else self.packed, self.bias)
        # Made in two dimensions it is no view, so that models may change it in place, as LED does.
        rows = _Product.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
        result: Tensor = rows.unflatten(0, input.shape[:-1])
        return result


def freeze_linears(model: torch.nn.Module) -> None:
    """Makes every Linear of `model` a FrozenLinear, where oneDNN can be had and is right."""
    if not _onednn_is_right():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = FrozenLinear


def pack_linears(model: torch.nn.Module) -> None:
    """Gives every FrozenLinear of `model` that oneDNN computes its packed weights: as many bytes again."""
    for module in model.modules():
        if isinstance(module, FrozenLinear) and module.packed is None and _computes(module.weight):
            module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight, _ANY_ROWS)


def bytes_to_pack(model: torch.nn.Module) -> int:
    """Memory that `pack_linears` would take."""
    linears = (module for module in model.modules() if isinstance(module, FrozenLinear))
    return sum(each.weight.nbytes for each in linears if each.packed is None and _computes(each.weight))


def _suits(input: Tensor, weight: Tensor) -> bool:
    return input.dtype is _DTYPE and _computes(weight) and input.numel() > 0


def _computes(weight: Tensor) -> bool:
    return weight.dtype is _DTYPE and weight.device.type == "cpu"


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
        seen_packed = _product(x, torch.ops.mkldnn._reorder_linear_weight(weight, _ANY_ROWS), bias)
    except (RuntimeError, AttributeError):
        return False
    return _close(seen, exact) and _close(seen_back, back) and _close(seen_packed, exact)


def _close(seen: Tensor, exact: Tensor) -> bool:
    return float((seen - exact).abs().max()) <= _TOLERANCE * float(exact.abs().max())
