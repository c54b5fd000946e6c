"""Attention of one new position of every row, in one operation a layer: for steps on accelerators.

What scaled_dot_product_attention adds to its scores is a bias in the data type of the queries: made of a
mask and of relative positions once in a step, for all layers that share them. Given a mask of truths, CUDA
makes a bias of it in each layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")
_TAKEN_OVER = "_caikit_pt_takes_over_steps"


class Step:
    """What layers of one step have in common, made by the first that needs it."""

    def __init__(self) -> None:
        # With what it was made of: an address says nothing of what is gone.
        self._made: dict[tuple[int, ...], tuple[tuple[Any, ...], Any]] = {}

    def shared(self, make: Callable[..., _T], *of: Any) -> _T:
        """`make(*of)`, made once of the same things."""
        key = id(make), *map(id, of)
        if key not in self._made:
            self._made[key] = of, make(*of)
        made: _T = self._made[key][1]
        return made


_STEP: ContextVar[Step | None] = ContextVar("step", default=None)


@contextmanager
def stepping() -> Iterator[None]:
    """Inside, every forward pass is one step: it has one new position in every row."""
    token = _STEP.set(Step())
    try:
        yield
    finally:
        _STEP.reset(token)


def current_step() -> Step | None:
    """The step that is being taken."""
    return _STEP.get()


def take_steps(model: Any) -> None:
    """Takes over attention in steps, of models whose attention is a function of transformers' interface."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = model.config._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get(name)
    if "caikit_pt" in str(name) and attend is not None and not hasattr(attend, _TAKEN_OVER):
        AttentionInterface.register(name, _in_steps(attend))


def _in_steps(attend: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function of transformers that is another one in steps."""

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **keywords: Any
    ) -> Any:
        step = _STEP.get()
        odd = keywords.get("softcap") is not None or keywords.get("s_aux") is not None
        if step is None or query.shape[2] != 1 or odd:
            return attend(module, query, key, value, attention_mask, **keywords)
        bias = step.shared(_bias, attention_mask, keywords.get("position_bias"), query.dtype)
        return _attended(query, key, value, bias, keywords.get("scaling")), None

    setattr(attention, _TAKEN_OVER, True)
    return attention


def _attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Of query [R, h, 1, D], key and value [R, h', C, D]: [R, 1, h, D]."""
    rows, heads, _, width = query.shape
    if heads != key.shape[1]:
        # Heads that share keys and values stand in the place of positions.
        query = query.reshape(rows, key.shape[1], -1, width)
        if bias is not None and bias.shape[1] != 1:
            bias = bias.reshape(bias.shape[0], key.shape[1], -1, bias.shape[-1])
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=scale
    )
    return attended.reshape(rows, 1, heads, value.shape[-1])


def _bias(mask: Tensor | None, relative: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores: `relative` [1, h, 1, C] where the mask [R, 1, 1, C] shows it."""
    if mask is None:
        return relative
    if mask.dtype != torch.bool:
        return mask if relative is None else relative + mask
    if relative is None:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)
    # A number given to `where` would be copied from the host, which can't be captured.
    return relative.masked_fill(~mask, -math.inf)
