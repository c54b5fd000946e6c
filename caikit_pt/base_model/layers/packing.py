"""Teaches models to compute rows of any length one behind another in one row, [1, N, H], without padding.

A model's linear layers, norms and activations treat every position alike, so N positions of many rows
cost what N positions cost. Only attention has to know the rows. It is told through transformers'
attention interface: inside `packed(layout)` the layout computes attention, outside of it torch's
scaled_dot_product_attention does, as for every model.

Letters: N packed positions, T positions of a row, H hidden size, h heads, d width of a head.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from functools import cache
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from caikit_pt.base_model.layers.attention import Scoring
from caikit_pt.base_model.layers.front import put_in_front

NAME = "caikit_pt_packed"
_REGISTERING = threading.Lock()


class NotPackable(Exception):
    """The model's attention asks for something that a layout knows nothing of."""


class StopForward(Exception):
    """Raised in the middle of a forward pass when all that is wanted of it is there."""


class Layout(Protocol):
    """Computes attention between packed rows in the place of the model."""

    @property
    def longest(self) -> int:
        """Positions of the longest row: what relative biases have to reach."""

    @property
    def positions(self) -> Tensor | None:
        """The place [N] of each packed position in its row, for models that can't be told; else None."""

    @property
    def read(self) -> Tensor | None:
        """The positions [R] at which the last layer is read; None for all, or where there are two stacks."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """Of query [1, h, N, d], key and value [1, h', N, d]: [1, N, h, d]."""

    def collect(self) -> None:
        """Told before the last layer runs to get its keys and values alone, which ends with StopForward."""


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def packed(layout: Layout | None) -> Iterator[None]:
    """Inside, the attention of every model is computed by `layout`, if there is one, in this thread alone."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def as_now() -> AbstractContextManager[None]:
    """What is `packed` here and now, in the state that its layout is in, for once more later on."""
    return packed(copy(_LAYOUT.get()))


def prepare(model: Any) -> bool:
    """Teaches a model of scaled_dot_product_attention to heed layouts; whether it could be taught.

    Nothing changes outside of `packed`.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    with _REGISTERING:
        _register()
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        return False  # its attention is no function that can be replaced
    for stack in model.modules():
        # In transformers 5.17 an encoder and a decoder have configs of their own, which aren't told.
        if getattr(getattr(stack, "config", None), "_attn_implementation", None) == "sdpa":
            stack.config._attn_implementation = NAME
    for module in model.modules():
        if hasattr(module, "compute_bias"):
            module.register_forward_pre_hook(_bias_of_a_row, with_kwargs=True)
        elif (
            isinstance(module, torch.nn.Embedding) and "position_ids" in signature(module.forward).parameters
        ):
            module.register_forward_pre_hook(_positions_of_rows, with_kwargs=True)
    layers = _layers(model)
    if layers is not None:
        put_in_front(layers[-1], _LastLayer)
    return True


def mask_of_none(device: torch.device) -> Tensor:
    """A mask [1, 1, 1, 1] that models take as it is instead of making one of all N positions."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


# ---- inside the model ----


@cache
def _register() -> None:
    """Once: others put something in front of what is registered."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    layout = _LAYOUT.get()
    if layout is None:
        more = {"softcap": softcap, "s_aux": s_aux, "sliding_window": sliding_window}
        kwargs.update({name: value for name, value in more.items() if value is not None})
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            position_bias=position_bias,
            **kwargs,
        )
    if s_aux is not None or softcap is not None:
        raise NotPackable("its attention has sinks or a cap")
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scored = Scoring(factor, position_bias, sliding_window)
    return layout.attend(module, query, key, value, scored), None


def _bias_of_a_row(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    """A relative bias of one row, [1, h, T, T], instead of one of all N packed positions."""
    layout = _LAYOUT.get()
    if layout is not None and keywords.get("position_bias") is None:
        if getattr(module, "has_relative_attention_bias", False):
            keywords["position_bias"] = module.compute_bias(layout.longest, layout.longest)
        else:
            weight = next(module.parameters())
            keywords["position_bias"] = weight.new_zeros(1, 1, 1, 1)
    return arguments, keywords


def _positions_of_rows(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    """Learned positions counted from the start of each row, instead of from that of the first."""
    layout = _LAYOUT.get()
    if layout is not None and layout.positions is not None:
        keywords["position_ids"] = layout.positions
    return arguments, keywords


class _LastLayer:
    """The last layer where few positions are read: keys and values of all, all else of those alone."""

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Any:
        layout = _LAYOUT.get()
        forward: Any = super().forward  # type: ignore[misc]
        if layout is None or layout.read is None:
            return forward(hidden_states, *arguments, **keywords)
        layout.collect()
        with suppress(StopForward):
            forward(hidden_states, *arguments, **keywords)
        length, read = hidden_states.shape[1], layout.read

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(cut, value))
            if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length:
                return value[:, read]
            return value

        def put_back(value: Any) -> Any:
            """What wasn't computed is zero; nobody reads it."""
            if isinstance(value, tuple):
                return (put_back(value[0]), *value[1:])
            return torch.zeros_like(hidden_states).index_copy(1, read, value)

        keywords = {name: cut(value) for name, value in keywords.items()}
        return put_back(forward(cut(hidden_states), *map(cut, arguments), **keywords))


def _layers(model: Any) -> torch.nn.ModuleList | None:
    """The layers of a model with one stack, where they stand in one list and no other is as long."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    return lists[0] if len(lists) == 1 else None
