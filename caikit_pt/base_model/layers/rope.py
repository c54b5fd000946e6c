"""Rotary positions of each row by its own length, whatever stands beside it.

`longrope` (Ding et al. 2024, as Phi-3 has it) turns positions by one set of factors in a row of up to
`original_max_position_embeddings` positions, and by another in all of a longer row. transformers chooses
by the longest row of a pass, so that a short row beside a long one gets other numbers than alone. Here
every row is given what the module itself gives to a pass of that length.

A row that grows past the limit has to be read again from its start, prompt included: its earlier keys are
those of a shorter row. (`dynamic` changes all keys with every position past its limit, which is where the
context ends here.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.front import put_in_front

_LENGTHS: ContextVar[Tensor | None] = ContextVar("lengths", default=None)
# The modules choose by writing to themselves.
_CHOOSING = threading.Lock()


@contextmanager
def row_lengths(lengths: Tensor) -> Iterator[None]:
    """Inside, the rows of positions [B, T] end up with `lengths` positions: [B, 1], or [1, T] of packed rows.

    Outside, a row is as long as its last position says.
    """
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def turn_by_own_length(model: torch.nn.Module) -> None:
    """Changes `model` in place."""
    for module in list(model.modules()):
        if _limit(module) is not None:
            put_in_front(module, _RopeOfRows)


def longest_short_row(model: torch.nn.Module) -> int | None:
    """The positions up to which a row is a short one; None where all rows are alike.

    Several limits would mean several readings of one row. No model is known that has them.
    """
    return min((limit for limit in map(_limit, model.modules()) if limit is not None), default=None)


class _RopeOfRows:
    """Goes in front of the class of a module that makes rotary angles of positions [B, T]."""

    def forward(self, x: Tensor, position_ids: Tensor, *arguments: Any, **keywords: Any) -> Any:
        forward: Any = super().forward  # type: ignore[misc]
        limit = _limit(self)
        assert limit is not None
        lengths = _LENGTHS.get()
        if lengths is None:
            lengths = position_ids.amax(dim=-1, keepdim=True) + 1
        beyond = torch.full_like(position_ids[:, :1], limit)
        with _CHOOSING:
            short = forward(x, position_ids.clamp(max=limit - 1), *arguments, **keywords)
            # One position more than a short row has, and off again.
            long = forward(x, torch.cat([position_ids, beyond], dim=1), *arguments, **keywords)
        is_long = (lengths > limit)[..., None]
        return tuple(torch.where(is_long, b[:, :-1], a) for a, b in zip(short, long, strict=True))


def _limit(module: Any) -> int | None:
    """Where a module of rotary angles changes its factors."""
    kinds = getattr(module, "rope_type", None)
    parameters = getattr(getattr(module, "config", None), "rope_parameters", None)
    if kinds is None or not isinstance(parameters, dict):
        return None
    by_layer = [parameters[kind] for kind in kinds] if isinstance(kinds, dict) else [parameters]
    limits = [
        int(each["original_max_position_embeddings"])
        for each in by_layer
        if each.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)
