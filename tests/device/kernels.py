"""Operators that are one kernel on a GPU, and on a CPU, which computes them here, several or none at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention by the kernel that a backend of its own would have; a mask of truth values
    is made one of numbers first, as CUDA's kernels want it."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
    if not enable_gqa and key.shape[1] != query.shape[1]:
        raise ValueError("queries and keys have different numbers of heads, and enable_gqa isn't set")
    answer: Tensor = aten._scaled_dot_product_fused_attention_overrideable(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )[0]
    return answer


def fused_rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """rms_norm as CUDA has it."""
    normed: Tensor = aten._fused_rms_norm(input, list(normalized_shape), weight, eps)[0]
    return normed


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    scores = _scores(query, key, bias, is_causal, scale)
    nothing = torch.zeros(0)
    answer = aten._safe_softmax(scores, -1) @ _repeated(value, query)
    longest = query.shape[2], key.shape[2]
    return answer, scores.logsumexp(-1), nothing, nothing, *longest, nothing, nothing, nothing


def _attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    wanted: Any,
    out: Tensor,
    logsumexp: Tensor,
    *rest: Any,
    scale: float | None = None,
) -> tuple[Any, ...]:
    is_causal, factor = rest[5], query.shape[-1] ** -0.5 if scale is None else scale
    weights = aten._safe_softmax(_scores(query, key, bias, is_causal, scale), -1)
    keys, values = _repeated(key, query), _repeated(value, query)
    through = aten._softmax_backward_data(gradient @ values.transpose(-2, -1), weights, -1, weights.dtype)
    of_key = factor * through.transpose(-2, -1) @ query
    of_value = weights.transpose(-2, -1) @ gradient
    return (
        factor * through @ keys,
        _summed(of_key, key),
        _summed(of_value, value),
        through if wanted[3] else None,
    )


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, is_causal: bool, scale: float | None) -> Tensor:
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ _repeated(key, query).transpose(-2, -1) * factor
    if is_causal:
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores if bias is None or not bias.numel() else scores + bias


def _repeated(shared: Tensor, query: Tensor) -> Tensor:
    """Keys or values for each head of queries."""
    return shared.repeat_interleave(query.shape[1] // shared.shape[1], 1)


def _summed(each: Tensor, shared: Tensor) -> Tensor:
    """The gradient of heads that several heads of queries share."""
    return each.view(each.shape[0], shared.shape[1], -1, *each.shape[2:]).sum(2)


def _rms_norm_backward(
    gradient: Tensor, x: Tensor, shape: Any, rstd: Tensor, weight: Tensor | None, wanted: Any
) -> tuple[Tensor, Tensor | None]:
    wide, weighted = x.float(), (gradient if weight is None else gradient * weight).float()
    along = (weighted * wide).mean(-1, keepdim=True) * rstd.pow(3)
    return (weighted * rstd - wide * along).to(x.dtype), None


# By the name under which torch has the kernel, and how it is computed on the host.
KERNELS: dict[Any, Callable[..., Any]] = {
    aten._scaled_dot_product_fused_attention_overrideable.default: _attention,
    aten._scaled_dot_product_fused_attention_overrideable_backward.default: _attention_backward,
    aten._fused_rms_norm_backward.default: _rms_norm_backward,
    aten._fused_rms_norm.default: aten._fused_rms_norm.default,
    aten.silu_backward.default: aten.silu_backward.default,
}
