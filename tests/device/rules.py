"""What CUDA refuses, and what it makes the host wait for, by the operators of ATen.

Written down from torch's own kernels: a table, since there is no GPU to be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .record import Cause, Kind

aten = torch.ops.aten

# Operators whose result has a shape that only the device knows.
_SHAPES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.unique_dim_consecutive.default,
    aten.bincount.default,
}
# Operators that read a number, to give it back or to look whether they can be computed at all.
_READING = {aten._local_scalar_dense.default, aten.multinomial.default}
_COMPARING = {aten.equal.default, aten.allclose.default}
_INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor}
_INDEXED_WRITING = {
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
# Besides pointwise ones, what takes a single number from the host as an argument of its kernel.
_TAKE_A_NUMBER = {
    *_INDEXED_WRITING,
    aten.fill_.Tensor,
    aten.fill.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
}
_PRODUCTS = {
    aten.mm.default,
    aten.bmm.default,
    aten.mv.default,
    aten.dot.default,
    aten.addmm.default,
    aten.addmv.default,
    aten.baddbmm.default,
}
_ALLOCATING = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "empty_permuted",
    # A number that is about to be written by index: CUDA leaves it on the host.
    "scalar_tensor",
}
_UNDECLARED_VIEWS = {aten._unsafe_view.default, aten._reshape_alias.default}


class Refused(RuntimeError):
    """What CUDA raises an error for."""


@cache
def kind_of(func: Any) -> Kind:
    """What an operator costs."""
    if func.overloadpacket.__name__ in _ALLOCATING:
        return Kind.ALLOCATE
    returns = [each.alias_info for each in func._schema.returns]
    if func in _UNDECLARED_VIEWS or any(alias and not alias.is_write for alias in returns):
        return Kind.VIEW
    return Kind.COMPUTE


def refuse(
    func: Any, args: Any, kwargs: dict[str, Any], device: torch.device, tensors: Sequence[Tensor]
) -> None:
    """Raises where CUDA would, of an operator that is given `tensors` in all."""
    others = {each.device for each in tensors if each.device != device and each.device.type != "cpu"}
    if others:
        raise Refused(f"{func}: expected all tensors on {device}, but found some on {others.pop()}")
    on_host = [each for each in tensors if each.device.type == "cpu"]
    if on_host and len(on_host) < len(tensors):
        allowed = set(map(id, _allowed_on_host(func, args, kwargs)))
        shapes = ", ".join(str(list(each.shape)) for each in on_host if id(each) not in allowed)
        if shapes:
            raise Refused(f"{func}: expected all tensors on {device}, but found some on the cpu: {shapes}")
    if func in _PRODUCTS and not args[0].is_floating_point():
        raise Refused(f"{func}: not implemented for {args[0].dtype}")


def causes_to_wait(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Cause]:
    """Why the host waits for this operator on a device; copies are another matter."""
    if func in _READING:
        yield Cause.ITEM
    elif func in _COMPARING:
        yield Cause.EQUAL
    elif func in _SHAPES or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        yield Cause.SHAPE
    elif func in _INDEXING or func in _INDEXED_WRITING:
        indices = [each for each in args[1] if each is not None]
        there = [each for each in indices if each.device.type != "cpu"]
        if len(there) < len(indices):
            yield Cause.HOST_INDEX
        masks = [each for each in there if each.dtype in (torch.bool, torch.uint8)]
        if masks and not (
            func in _INDEXED_WRITING and len(masks) == len(indices) == 1 and _is_number(args[2])
        ):
            yield Cause.MASK


def _allowed_on_host(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The host tensors that CUDA takes beside its own: single numbers that are only read, and indices."""
    allowed: list[Tensor] = []
    if torch.Tag.pointwise in func.tags or func in _TAKE_A_NUMBER:
        written = [
            each.name for each in func._schema.arguments if each.alias_info and each.alias_info.is_write
        ]
        named = [*zip((each.name for each in func._schema.arguments), args, strict=False), *kwargs.items()]
        allowed += [
            value
            for name, value in named
            if isinstance(value, Tensor) and not value.dim() and name not in written
        ]
    if func in _INDEXING or func in _INDEXED_WRITING:
        allowed += [each for each in args[1] if each is not None]
    return allowed


def _is_number(value: Tensor) -> bool:
    """Whether a value was written in Python: CUDA fills with it, and needn't know where the mask is true."""
    return value.numel() == 1 and (value.device.type == "cpu" or bool(getattr(value, "is_number", False)))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors of arguments or results, in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
