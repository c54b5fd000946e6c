"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in few operations, on devices that aren't CPUs.

transformers writes `x cos + rotate_half(x) sin` as a formula, of which autograd goes through every step: five
operations for queries and five for keys, and eight back. Here it is three each way. A function of that name
is taken over where it computes the same numbers, which is tried; what it does on a CPU stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.front import put_in_front

_NAME = "apply_rotary_pos_emb"
_TOLERANCE = 1e-5


def turned(x: Tensor, cos: Tensor, signed: Tensor) -> Tensor:
    """x cos + [x2, x1] s of x = [x1, x2] [..., d], where s is `signed_sin`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed)


def signed_sin(sin: Tensor) -> Tensor:
    """`sin` [..., d] with the sign of its first half changed: what the other half is multiplied by."""
    return sin * _signs(sin.shape[-1], sin.device, sin.dtype)


class _Turned(torch.autograd.Function):
    """`turned`, whose gradient is as short."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed)
        return turned(x, cos, signed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, signed = ctx.saved_tensors
        (gradient,) = gradients
        half = gradient.shape[-1] // 2
        return torch.addcmul((gradient * signed).roll(half, -1), gradient, cos), None, None


def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, h, T, d] at the angles whose `cos` and `sin` [B, T, d] are given."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    signed = signed_sin(sin)
    turned_q: Tensor = _Turned.apply(q, cos, signed)  # type: ignore[no-untyped-call]
    turned_k: Tensor = _Turned.apply(k, cos, signed)  # type: ignore[no-untyped-call]
    return turned_q, turned_k


def turn_in_few_steps(model: torch.nn.Module) -> None:
    """Teaches the attention of `model` to use `turn` where it isn't on a CPU.

    A module gets its own forward once more, which finds `turn` under the name of the function that it calls.
    """
    for module in list(model.modules()):
        forward = type(module).forward
        if isinstance(forward, FunctionType) and _NAME in forward.__code__.co_names:
            own = forward.__globals__.get(_NAME)
            if own is not None and _is_plain(own):
                put_in_front(module, _front(forward, own))


@cache
def _front(forward: FunctionType, own: Callable[..., Any]) -> type:
    """A class whose forward is `forward`, but for the function that turns."""

    @wraps(own)
    def chosen(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **more: Any) -> Any:
        # Where only the first numbers of a head are turned the own function parts them, and where angles are
        # kept in a longer type it rounds.
        plain = cos.shape[-1] == q.shape[-1] and cos.dtype is q.dtype
        as_it_is = q.device.type == "cpu" or not plain
        return (own if as_it_is else turn)(q, k, cos, sin, *rest, **more)

    names = {**forward.__globals__, _NAME: chosen}
    again = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    again.__kwdefaults__, again.__annotations__ = forward.__kwdefaults__, forward.__annotations__
    return type("_FewSteps", (), {"forward": wraps(forward)(again)})


@cache
def _is_plain(own: Callable[..., Any]) -> bool:
    """Whether it computes what `turn` computes, in float32 on a CPU."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(2, 3, 4, generator=generator).repeat(1, 1, 2)
    try:
        with torch.no_grad():
            expected = own(q, k, angles.cos(), angles.sin())
            seen = turn(q, k, angles.cos(), angles.sin())
    except Exception:  # whatever a function of another kind does with it
        return False
    pairs = zip(expected, seen, strict=True)
    return all(a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE) for a, b in pairs)


@cache
def _signs(width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """-1 for the first half of `width` numbers, 1 for the second."""
    signs = torch.ones(width, device=device, dtype=dtype)
    signs[: width // 2] = -1
    return signs
