"""A model of transformers becomes a frozen one: the same numbers, in the fastest way that gives them."""

from __future__ import annotations

from typing import Any

from caikit_pt.base_model.layers.elementwise import freeze_elementwise
from caikit_pt.base_model.layers.fused_attention import fuse_attention
from caikit_pt.base_model.layers.linear import freeze_linears
from caikit_pt.base_model.layers.masks import make_masks_unseen
from caikit_pt.base_model.layers.packing import prepare
from caikit_pt.base_model.layers.reading import read_where_asked
from caikit_pt.base_model.layers.recompute import let_recompute
from caikit_pt.base_model.layers.rope import turn_by_own_length
from caikit_pt.base_model.layers.rotary import turn_in_few_steps
from caikit_pt.base_model.layers.stepping import take_steps


def quicken(model: Any) -> bool:
    """Changes `model` in place, on any device; whether its rows can be packed (`packing.prepare`)."""
    freeze_linears(model)
    freeze_elementwise(model)
    turn_by_own_length(model)
    turn_in_few_steps(model)
    read_where_asked(model)
    packable = prepare(model)
    if next(model.parameters()).device.type != "cpu":
        make_masks_unseen(model)
        take_steps(model)
        fuse_attention(model)
    let_recompute(model)
    return packable
