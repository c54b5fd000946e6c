"""Attention layers whose steps take few operations: one product for queries, keys and values, one turn.

A layer is taken over where it computes the same numbers, which is tried and not told from its name. Its three
weights become parts of one tensor, in no more memory than they had. Outside of `stepping` it is what it was.

Letters: R rows, h heads, h' heads of keys and values, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.front import put_in_front
from caikit_pt.base_model.layers.rotary import signed_sin, turned
from caikit_pt.base_model.layers.stepping import current_step, stepping

_TOLERANCE = 1e-5
_PAST = 5  # positions of a trial's cache


def fuse_attention(model: torch.nn.Module) -> None:
    """Takes over the attention layers of `model` that are what they seem."""
    for module in model.modules():
        for kind in (_TurnedAttention, _BiasedAttention):
            if kind.fits(module) and kind.is_same(module):
                _join(module, kind.projections)
                put_in_front(module, kind)


class _Fused:
    """Goes in front of the class of an attention layer with a Linear for each of `projections`."""

    projections: tuple[str, str, str]
    joined: Tensor
    joined_bias: Tensor | None

    @classmethod
    def fits(cls, module: Any) -> bool:
        """Whether it has what is needed."""
        parts = [getattr(module, name, None) for name in cls.projections]
        return all(isinstance(part, torch.nn.Linear) for part in parts) and (
            len({(part.bias is None, part.weight.dtype, part.weight.device) for part in parts if part}) == 1
        )

    def projected(self, hidden_states: Tensor) -> Tensor:
        """Queries, keys and values [R, 1, (h + 2 h') D] of [R, 1, H]."""
        return torch.nn.functional.linear(hidden_states, self.joined, self.joined_bias)


class _TurnedAttention(_Fused):
    """With rotary positions, as Llama has it."""

    projections = "q_proj", "k_proj", "v_proj"

    @classmethod
    def fits(cls, module: Any) -> bool:
        names = ("head_dim", "layer_idx", "scaling", "o_proj")
        return super().fits(module) and all(hasattr(module, name) for name in names)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **keywords: Any,
    ) -> Any:
        step, module = current_step(), self
        if step is None or position_embeddings is None or past_key_values is None:
            return super().forward(  # type: ignore[misc]
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **keywords,
            )
        return _turned(
            module, self.projected(hidden_states), position_embeddings, attention_mask, past_key_values
        )

    @classmethod
    def is_same(cls, module: Any) -> bool:
        """Tried on a few rows with something to attend to."""
        from transformers import DynamicCache

        width = module.head_dim
        some = _Some(module, cls.projections, width)
        angles = some.random(_Some.rows, 1, width // 2).repeat(1, 1, 2)
        turn = angles.cos(), angles.sin()

        def attend(alone: bool) -> Tensor:
            cache = some.cache(DynamicCache())
            with stepping():
                if alone:
                    attended = module(
                        some.hidden, position_embeddings=turn, attention_mask=None, past_key_values=cache
                    )[0]
                else:
                    attended = _turned(module, some.projected(), turn, None, cache)[0]
            layer: Any = cache.layers[module.layer_idx]
            return torch.cat([attended.flatten(), layer.keys.flatten(), layer.values.flatten()])

        return _agree(attend)


class _BiasedAttention(_Fused):
    """With relative positions, as T5 has it; of a decoder's own positions."""

    projections = "q", "k", "v"

    @classmethod
    def fits(cls, module: Any) -> bool:
        names = ("n_heads", "key_value_proj_dim", "layer_idx", "o", "compute_bias")
        fitting = super().fits(module) and all(hasattr(module, name) for name in names)
        return fitting and bool(module.is_decoder) and bool(getattr(module, "is_causal", False))

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **keywords: Any,
    ) -> Any:
        step, module = current_step(), self
        if step is None or key_value_states is not None or past_key_values is None:
            return super().forward(  # type: ignore[misc]
                hidden_states,
                mask=mask,
                key_value_states=key_value_states,
                position_bias=position_bias,
                past_key_values=past_key_values,
                **keywords,
            )
        return _biased(module, self.projected(hidden_states), mask, position_bias, past_key_values)

    @classmethod
    def is_same(cls, module: Any) -> bool:
        """Tried on a few rows with something to attend to."""
        from transformers import DynamicCache, EncoderDecoderCache

        some = _Some(module, cls.projections, module.key_value_proj_dim)

        def attend(alone: bool) -> Tensor:
            cache = EncoderDecoderCache(some.cache(DynamicCache()), DynamicCache())
            with stepping():
                if alone:
                    attended, bias = module(some.hidden, past_key_values=cache)[:2]
                else:
                    attended, bias = _biased(module, some.projected(), None, None, cache)[:2]
            layer: Any = cache.self_attention_cache.layers[module.layer_idx]
            return torch.cat([each.flatten() for each in (attended, bias, layer.keys, layer.values)])

        return _agree(attend)


def _turned(
    module: Any, projected: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any
) -> tuple[Tensor, None]:
    """Attention with queries and keys turned by cosines and sines [R, 1, D] of their positions."""
    step, width = current_step(), module.head_dim
    assert step is not None
    rows = projected.shape[0]
    sizes = [getattr(module, name).out_features for name in _TurnedAttention.projections]
    straight = projected[..., : sizes[0] + sizes[1]].view(rows, 1, -1, width)
    cosines, sines = turn
    signed = step.shared(signed_sin, sines)
    heads = turned(straight, cosines[:, :, None], signed[:, :, None]).transpose(1, 2)
    query, key = heads[:, : sizes[0] // width], heads[:, sizes[0] // width :]
    value = projected[..., sizes[0] + sizes[1] :].view(rows, 1, -1, width).transpose(1, 2)
    key, value = cache.update(key, value, module.layer_idx)
    attended, _ = _interface(module)(module, query, key, value, mask, scaling=module.scaling)
    return module.o_proj(attended.reshape(rows, 1, -1)), None


def _biased(
    module: Any, projected: Tensor, mask: Tensor | None, bias: Tensor | None, cache: Any
) -> tuple[Tensor, Tensor, None]:
    """Attention with a bias [1, h, 1, C] for relative positions, which the first layer makes."""
    rows, width = projected.shape[0], module.key_value_proj_dim
    parts = projected.view(rows, 1, 3, -1, width).permute(2, 0, 3, 1, 4)
    seen = cache.get_seq_length(module.layer_idx)
    key, value = cache.self_attention_cache.update(parts[1], parts[2], module.layer_idx)
    if bias is None:
        length = key.shape[-2]
        if module.has_relative_attention_bias:
            bias = module.compute_bias(1, length, device=key.device, past_seen_tokens=seen)
        else:
            bias = key.new_zeros(1, module.n_heads, 1, length)
    attended, _ = _interface(module)(module, parts[0], key, value, mask, scaling=1.0, position_bias=bias)
    return module.o(attended.reshape(rows, 1, -1)), bias, None


def _interface(module: Any) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]


# ---- weights ----


def _join(module: Any, names: tuple[str, str, str]) -> None:
    """The three weights, and biases, become parts of one tensor each."""
    parts = [getattr(module, name) for name in names]
    module.joined = torch.cat([part.weight.detach() for part in parts])
    module.joined_bias = None
    sizes = [part.out_features for part in parts]
    for part, weight in zip(parts, module.joined.split(sizes), strict=True):
        part.weight = torch.nn.Parameter(weight, requires_grad=False)
    if parts[0].bias is not None:
        module.joined_bias = torch.cat([part.bias.detach() for part in parts])
        for part, bias in zip(parts, module.joined_bias.split(sizes), strict=True):
            part.bias = torch.nn.Parameter(bias, requires_grad=False)


# ---- trials ----


class _Some:
    """Rows to try an attention layer with."""

    rows = 3

    def __init__(self, module: Any, names: tuple[str, str, str], width: int) -> None:
        self._parts = [getattr(module, name) for name in names]
        self._generator = torch.Generator().manual_seed(0)
        self._layer = module.layer_idx
        self.hidden = self.random(self.rows, 1, self._parts[0].in_features)
        heads = self._parts[1].out_features // width
        self._past = [self.random(self.rows, heads, _PAST, width) for _ in range(2)]

    def random(self, *shape: int) -> Tensor:
        """Ordinary numbers where the layer is."""
        weight = self._parts[0].weight
        return torch.randn(*shape, generator=self._generator).to(weight.device, weight.dtype)

    def cache(self, empty: Any) -> Any:
        """A cache in which there are some positions."""
        keys, values = self._past
        for layer in range(self._layer + 1):
            empty.update(keys, values, layer)
        return empty

    def projected(self) -> Tensor:
        """By the three one after the other."""
        return torch.cat([part(self.hidden) for part in self._parts], dim=-1)


def _agree(attend: Any) -> bool:
    """Whether a layer computes alone what is computed in its place."""
    try:
        with torch.no_grad():
            expected, seen = attend(True).float(), attend(False).float()
    except Exception:  # whatever a layer of another kind does with it
        return False
    if expected.shape != seen.shape or not torch.isfinite(expected).all():
        return False
    tolerance = max(_TOLERANCE, 4 * torch.finfo(attend(True).dtype).eps)
    return bool((expected - seen).abs().max() <= tolerance * expected.abs().max())
