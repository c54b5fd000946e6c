"""Rows of a decoder-only model: read from the prompt's keys and values on, and generated on one timeline.

A micro-batch is read as `[pad][prompt][text][pad]`: prompts end, and texts begin, at the same position,
so that each row's own positions stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from caikit_pt.base_model.batch import Batch, Prefill, position_bytes
from caikit_pt.base_model.prompt_cache import PromptCells
from caikit_pt.base_model.reading import read_at
from caikit_pt.base_model.rope import row_lengths
from caikit_pt.base_model.timeline import Timeline
from caikit_pt.parameters.tuning import DECODER

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.causal import CausalModel
    from caikit_pt.base_model.frozen import Row


class CausalPrefill(Prefill):
    """b rows of a decoder-only model that are being read."""

    def __init__(self, base: CausalModel, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._base = base
        prefixes = [_cells(base, row) for row in rows]
        self.prefix_lengths = [prefix[0][0].shape[1] if prefix else 0 for prefix in prefixes]
        self.text_lengths = [len(row.ids) + len(row.answer) for row in rows]
        lengths = [sum(both) for both in zip(self.prefix_lengths, self.text_lengths, strict=True)]
        self._lengths = torch.tensor(lengths, device=base.device)[:, None]
        self.prefix = max(self.prefix_lengths)
        self.cache = _started(prefixes, self.prefix)
        self._logits: dict[int, Tensor] = {}
        self._read = 0
        width = max(self.text_lengths)
        ids = torch.full((len(rows), width), base.end_id)
        mask = torch.zeros(len(rows), self.prefix + width, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : self.text_lengths[number]] = torch.tensor([*row.ids, *row.answer])
            own = slice(self.prefix - self.prefix_lengths[number], self.prefix + self.text_lengths[number])
            mask[number, own] = 1
        self._ids = ids.to(base.device, non_blocking=True)
        self._mask = mask.to(base.device, non_blocking=True)

    @property
    def columns(self) -> int:
        return self._ids.shape[1] - self._read

    def advance(self, columns: int) -> None:
        begin, end = self._read, min(self._read + columns, self._ids.shape[1])
        ending = [row for row, length in enumerate(self.text_lengths) if begin < length <= end]
        last = [self.text_lengths[row] - 1 - begin for row in ending]
        with read_at(ending, last), row_lengths(self._lengths):
            output = self._base.forward(
                self._base.model.get_input_embeddings()(self._ids[:, begin:end]),
                self._mask[:, : self.prefix + end],
                keep=0,
                cache=self.cache,
            )
        self._logits.update(zip(ending, output.logits[0].float(), strict=True))
        self._read = end

    @property
    def logits(self) -> Tensor:
        return torch.stack([self._logits[row] for row in range(len(self.rows))])

    @property
    def position_bytes(self) -> int:
        return position_bytes(self.cache.layers)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Each row's own positions in the cache."""
        pairs = zip(self.prefix_lengths, self.text_lengths, strict=True)
        return [(self.prefix - before, self.prefix + text) for before, text in pairs]


class CausalBatch(Batch):
    """B rows of a decoder-only model."""

    def __init__(self, base: CausalModel) -> None:
        self._base = base
        self._timeline = Timeline()

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, CausalPrefill)
        self._timeline.join(prefill.cache.layers, prefill.spans)

    def leave(self, index: int) -> None:
        self._timeline.leave(index)

    def advance(self, tokens: Tensor) -> Tensor:
        embeddings = self._base.model.get_input_embeddings()(tokens[:, None])
        cache, mask = self._timeline.cache(), self._timeline.mask(self._base.device)
        output = self._base.forward(embeddings, mask, keep=1, cache=cache)
        self._timeline.grow()
        logits: Tensor = output.logits[:, -1].float()
        return logits


def prompt_cells(base: CausalModel, prompt: Tensor, length: int = 0) -> PromptCells:
    """The keys and values [heads, P, D] of a soft prompt [P, H] in every layer, computed.

    They are for rows of `length` positions in all.
    """
    embeddings = prompt.to(base.device, base.dtype)[None]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=base.device)
    cache = DynamicCache()
    with row_lengths(torch.tensor([[length]], device=base.device)):
        base.forward(embeddings, mask, keep=1, cache=cache)
    layers: list[Any] = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def _cells(base: CausalModel, row: Row) -> PromptCells:
    if DECODER not in row.prompt:
        return ()
    length = base.served_positions(row, len(row.answer))
    return base.prompts.get(
        row.prompt[DECODER], lambda prompt: prompt_cells(base, prompt, length), base.length_class(length)
    )


def _started(prefixes: Sequence[PromptCells], longest: int) -> DynamicCache:
    """A cache that holds the prompts, aligned at the end. Sliding windows are up to the masks."""
    cache = DynamicCache()
    some = next(filter(None, prefixes), ())
    for number, layer in enumerate(some):
        keys, values = (
            tensor.new_zeros(len(prefixes), tensor.shape[0], longest, tensor.shape[2]) for tensor in layer
        )
        for row, prefix in enumerate(prefixes):
            if prefix:
                own = slice(longest - prefix[number][0].shape[1], longest)
                keys[row, :, own], values[row, :, own] = prefix[number]
        cache.update(keys, values, number)
    return cache
