"""Linear layers whose weights never change: no weight gradient, and the fastest kernel for each product.

The second copy of a weight, in oneDNN's order, costs memory and pays where an answer's steps have few rows:
on an AMD EPYC of 2024 twice the speed. A layer gets one where it has been found to be faster (`fastest`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from caikit_pt.base_model.layers import kernels
from caikit_pt.base_model.layers.fastest import ANSWER, BACKWARD, CLASSES, FORWARD, class_of, fastest, settle
from caikit_pt.base_model.layers.front import put_in_front
from caikit_pt.base_model.layers.kernels import PACKED, TORCH, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


class _Product(torch.autograd.Function):
    """`x W^T + b` of x [..., K] with frozen W [O, K]: only x gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, forth: Kernel, back: Kernel
    ) -> Tensor:
        ctx.weight, ctx.back = weight, back
        return kernels.forward(x, weight, bias, forth)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return kernels.backward(gradients[0], ctx.weight, ctx.back), None, None, None, None


class FrozenLinear(torch.nn.Linear):
    """A Linear that is never trained."""

    # The weight in oneDNN's order, where `pack_linears` has made it.
    packed: Tensor | None = None
    # What `fastest` has said of this weight, by use and class of rows.
    chosen: dict[tuple[str, int], Kernel] | None = None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if input.dtype is not weight.dtype or not has_choice(weight) or not input.numel():
            return super().forward(input)
        rows = input.numel() // self.in_features
        if not torch.is_grad_enabled():
            kernel = self._kernel(FORWARD if self.packed is None else ANSWER, rows)
            laid_out = self.packed if kernel == PACKED and self.packed is not None else weight
            return kernels.forward(input, laid_out, self.bias, kernel)
        forth, back = self._kernel(FORWARD, rows), self._kernel(BACKWARD, rows)
        if forth == back == TORCH or input.ndim == 1:
            return super().forward(input)
        # Made in two dimensions it is no view, so that models may change it in place, as LED does.
        flat = input.flatten(0, -2)
        product = _Product.apply(flat, weight, self.bias, forth, back)  # type: ignore[no-untyped-call]
        result: Tensor = product.unflatten(0, input.shape[:-1])
        return result

    def _kernel(self, use: str, rows: int) -> Kernel:
        if self.chosen is None:
            self.chosen = {}
        key = use, class_of(rows)
        if key not in self.chosen:
            self.chosen[key] = fastest(use, self.weight, rows)
        return self.chosen[key]


def freeze_linears(model: torch.nn.Module) -> None:
    """Makes every Linear of `model` a FrozenLinear, where there is a choice of kernels that are right."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and kernels.onednn_is_right(module.weight.dtype):
            put_in_front(module, FrozenLinear)


def settle_training(model: torch.nn.Module, name: str) -> None:
    """Chooses the kernels of `model`, called `name`, for training."""
    settle((layer.weight for layer in _with_choice(model)), (FORWARD, BACKWARD), name)


def builds_code(model: torch.nn.Module) -> bool:
    """Whether new numbers of rows cost more than a few rows more, since oneDNN builds code for each.

    In bfloat16 that takes as long as some passes, whichever kernel is chosen; in float32 no longer than
    the rows would.
    """
    return any(layer.weight.dtype is not torch.float32 for layer in _with_choice(model))


def pack_linears(model: torch.nn.Module) -> None:
    """Gives each FrozenLinear of `model` that is faster with packed weights its own: as many bytes again."""
    for layer in _to_pack(model):
        layer.packed = kernels.pack(layer.weight)


def bytes_to_pack(model: torch.nn.Module, name: str) -> int:
    """Memory that `pack_linears` would take. Chooses the kernels for answers of `model`, called `name`."""
    settle((layer.weight for layer in _with_choice(model)), (FORWARD, ANSWER), name)
    return sum(layer.weight.nbytes for layer in _to_pack(model))


def has_choice(weight: Tensor) -> bool:
    """Whether there is more than one kernel for products with `weight`."""
    return weight.dtype in kernels.DTYPES and weight.device.type == "cpu"


def _to_pack(model: torch.nn.Module) -> list[FrozenLinear]:
    return [
        layer for layer in _with_choice(model) if layer.packed is None and PACKED in _chosen(layer, (ANSWER,))
    ]


def _chosen(layer: FrozenLinear, uses: Sequence[str]) -> set[Kernel]:
    return {fastest(use, layer.weight, rows) for use in uses for rows in CLASSES}


def _with_choice(model: torch.nn.Module) -> Iterator[FrozenLinear]:
    layers = (module for module in model.modules() if isinstance(module, FrozenLinear))
    return (layer for layer in layers if has_choice(layer.weight))
