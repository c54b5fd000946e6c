"""A pass through models with one stack, `[pad][prompt][text]`: their rows are counted from the prompt on.

The padding stands before the prompt and the positions are counted from the prompt's first row, so a
row in a batch has exactly the numbers it has alone. peft puts the padding between the prompt and
the text and drops the positions (peft#1093), which changes answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.layers.reading import reading

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.frozen import FrozenWeights


def forward(weights: FrozenWeights, embeddings: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
    """The logits [B, T, V] of new positions [B, T, H]; `mask` also covers what is in the `cache`.

    Inside `reading`, those of the positions that are read.
    """
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
    return weights.forward(  # type: ignore[no-any-return]
        {"position_ids": positions}, cache, inputs_embeds=embeddings, attention_mask=mask
    ).logits


def last_logits(
    weights: FrozenWeights, embeddings: Tensor, mask: Tensor, last: int, cache: Any = None
) -> Tensor:
    """As `forward`, of the `last` positions alone: [B, last, V]."""
    return last_read(weights, embeddings, mask, last, cache)[0]


def last_read(
    weights: FrozenWeights,
    embeddings: Tensor,
    mask: Tensor,
    last: int,
    cache: Any = None,
    layers: Collection[int] = (),
) -> tuple[Tensor, Mapping[int, Tensor]]:
    """As `last_logits`, with the states [B, last, H] of `layers` and, where it can be had, of the LAST."""
    with reading(lambda hidden: hidden[:, -last:], layers) as read:
        return forward(weights, embeddings, mask, cache)[:, -last:], read.states
