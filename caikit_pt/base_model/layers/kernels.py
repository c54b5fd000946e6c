"""The ways in which products with a frozen weight can be computed, and whether each is right here.

    TORCH    what torch takes by itself: MKL in float32, oneDNN in shorter types
    ONEDNN   oneDNN, with the weight as it lies in memory
    PACKED   oneDNN, with a second copy of the weight in the order in which oneDNN reads it

Which is the fastest differs from processor to processor, from type to type and from shape to shape: see
`fastest`. oneDNN's float32 is float32 as well, not a shorter type: both are off by about 1e-6 of the largest
number.

Letters: N rows, K what goes in, O what comes out.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

Kernel: TypeAlias = str
TORCH: Kernel = "torch"
ONEDNN: Kernel = "onednn"
PACKED: Kernel = "packed"
# Types that there is more than one way for.
DTYPES = (torch.float32, torch.bfloat16)

_ANY_ROWS = 64  # the order of packed weights is the same for all numbers of rows but one


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Kernel) -> Tensor:
    """`x W^T + b` [..., O] of x [..., K] and W [O, K], which PACKED wants as `pack` has made it."""
    if kernel == TORCH:
        return torch.nn.functional.linear(x, weight, bias)
    return _onednn(x, weight, bias)


def backward(gradient: Tensor, weight: Tensor, kernel: Kernel) -> Tensor:
    """`g W` [..., K] of g [..., O] and W [O, K]: the gradient of `forward` in x."""
    if kernel == TORCH:
        return gradient @ weight
    return _onednn(gradient.contiguous(), weight.t(), None)


def pack(weight: Tensor) -> Tensor:
    """W [O, K] once more, in oneDNN's order."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ANY_ROWS)
    return packed


@cache
def onednn_is_right(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators, which are private to torch, are there and agree with float64."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or dtype not in DTYPES:
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 9, 40), (24, 40), (24,))
    x, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    back = exact @ weight.double()
    try:
        seen = forward(x, weight, bias, ONEDNN)
        seen_back = backward(exact.to(dtype), weight, ONEDNN)
        seen_packed = forward(x, pack(weight), bias, PACKED)
    except (RuntimeError, AttributeError):
        return False
    return _close(seen, exact) and _close(seen_back, back) and _close(seen_packed, exact)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _close(seen: Tensor, exact: Tensor) -> bool:
    """By the largest number: the last bits of each type."""
    tolerance = max(1e-5, 2 * torch.finfo(seen.dtype).eps)
    return float((seen - exact).abs().max()) <= tolerance * float(exact.abs().max())
