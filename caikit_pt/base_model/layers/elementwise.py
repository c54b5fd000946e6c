"""Norms and activations of a frozen model, in fewer passes over memory while a prompt is trained.

transformers writes them as formulas, of which autograd keeps and goes through every step: a root mean
square norm takes some twenty passes over its input, forward and backward, where eight will do. A module is
taken over where it computes the same numbers, which is tried and not told from its name. Without
gradients, so for every answer, a module is what it was; but on an accelerator it is torch's own kernel, one
instead of six.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from caikit_pt.base_model.layers.front import put_in_front

_TOLERANCE = 1e-5
_SAMPLE = 64


class _RmsNorm(torch.autograd.Function):
    """x w / sqrt(mean(x^2) + eps) of x [..., H] with frozen w [H]; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype is torch.float64 else x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = (size * size / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, scale)
        ctx.weight = weight
        normed = wide * scale
        if weight.dtype is not x.dtype:
            mixed: Tensor = (normed * weight).to(x.dtype)
            return mixed
        result: Tensor = normed.to(x.dtype).mul_(weight)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        weighted = (gradients[0] * ctx.weight).to(scale.dtype)
        along = torch.linalg.vecdot(weighted, wide).unsqueeze(-1) * (scale.pow(3) / x.shape[-1])
        return weighted.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), None, None


class _FrozenNorm:
    """Goes in front of the class of a root mean square norm with a weight [H]."""

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Any:
        module = cast("Any", self)
        # Of mixed types, as T5 has them in float16, each model makes something else.
        plain = hidden_states.dtype is module.weight.dtype and not arguments and not keywords
        if plain and module.frozen_kernel:
            return torch.nn.functional.rms_norm(
                hidden_states, module.weight.shape, module.weight, module.frozen_eps
            )
        if not plain or not hidden_states.requires_grad:
            return super().forward(hidden_states, *arguments, **keywords)  # type: ignore[misc]
        gain = module.weight
        if module.frozen_offset:
            # As the models do: in bfloat16 most of a small weight would be lost beside the offset.
            gain = (gain if gain.dtype is torch.float64 else gain.float()) + module.frozen_offset
        return _RmsNorm.apply(hidden_states, gain, module.frozen_eps)  # type: ignore[no-untyped-call]


class _FrozenGelu:
    """Goes in front of the class of a GELU that is written out by its formula with tanh."""

    def forward(self, input: Tensor) -> Any:
        if not input.requires_grad and input.device.type == "cpu":
            return super().forward(input)  # type: ignore[misc]
        return torch.nn.functional.gelu(input, approximate="tanh")


def freeze_elementwise(model: torch.nn.Module) -> None:
    """Takes over the norms and activations of `model` that are what they seem."""
    for module in model.modules():
        if next(module.children(), None) is not None:
            continue
        if _is_gelu(module):
            put_in_front(module, _FrozenGelu)
            continue
        for offset in (0.0, 1.0):
            if _is_rms_norm(module, offset):
                module.frozen_offset, module.frozen_eps = offset, _eps(module)  # type: ignore[assignment]
                module.frozen_kernel = not offset and _has_kernel(module)  # type: ignore[assignment]
                put_in_front(module, _FrozenNorm)
                break


def _is_rms_norm(module: torch.nn.Module, offset: float) -> bool:
    """Whether it is x (offset + w) / sqrt(mean(x^2) + eps)."""
    names = [name for name, _ in module.named_parameters()]
    weight, eps = getattr(module, "weight", None), _eps(module)
    if names != ["weight"] or eps is None or not isinstance(weight, Tensor) or weight.ndim != 1:
        return False
    x = _sample(len(weight), weight)
    wide = x.float()
    expected = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * (offset + weight.float())
    return _computes(module, x, expected)


def _has_kernel(module: Any) -> bool:
    """Whether torch's own root mean square norm computes the same, on an accelerator."""
    weight = module.weight
    if weight.device.type == "cpu":
        return False
    x = _sample(len(weight), weight)
    seen = torch.nn.functional.rms_norm(x, weight.shape, weight, _eps(module))
    return _computes(module, x, seen.float())


def _is_gelu(module: torch.nn.Module) -> bool:
    """Whether it is the GELU with tanh. torch's own is fast as it is."""
    if next(module.parameters(), None) is not None or type(module).__module__.startswith("torch."):
        return False
    if "gelu" not in type(module).__name__.lower():
        return False
    x = torch.linspace(-6, 6, _SAMPLE)[None]
    return _computes(module, x, torch.nn.functional.gelu(x, approximate="tanh"))


def _computes(module: torch.nn.Module, x: Tensor, expected: Tensor) -> bool:
    try:
        with torch.no_grad():
            seen = module(x)
    except Exception:  # whatever a module of another kind does with it
        return False
    if not isinstance(seen, Tensor) or seen.shape != expected.shape:
        return False
    tolerance = max(_TOLERANCE, 4 * torch.finfo(seen.dtype).eps)
    return bool((seen.float() - expected).abs().max() <= tolerance * expected.abs().max())


def _sample(width: int, like: Tensor) -> Tensor:
    """Rows [3, H] of three sizes, one of which is near enough to zero for `eps` to show."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, width, generator=generator) * torch.tensor([[1.0], [30.0], [1e-3]])
    return rows.to(like.device, like.dtype)


def _eps(module: torch.nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None
