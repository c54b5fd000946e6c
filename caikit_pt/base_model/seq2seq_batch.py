"""Rows of an encoder-decoder model: the encoder reads them once, the decoder goes on from what it read.

The decoder's own keys and values are on one timeline, those of the encoder's output in slots beside
it, aligned at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from caikit_pt.base_model.batch import Batch, Prefill, position_bytes
from caikit_pt.base_model.frozen import pad_left, pad_right
from caikit_pt.base_model.timeline import Timeline
from caikit_pt.parameters.tuning import DECODER, ENCODER

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.frozen import Row
    from caikit_pt.base_model.seq2seq import Seq2SeqModel


class Seq2SeqPrefill(Prefill):
    """b rows of an encoder-decoder model that are being read: all at once, since an encoder can't stop."""

    def __init__(self, base: Seq2SeqModel, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._base = base
        self._logits: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        assert self._logits is not None
        return self._logits

    @property
    def columns(self) -> int:
        return max(len(row.ids) for row in self.rows) if self._logits is None else 0

    @property
    def position_bytes(self) -> int:
        return position_bytes(self.cache.self_attention_cache.layers)

    def advance(self, columns: int) -> None:
        base = self._base
        encoder, encoder_mask = pad_right([base.join(row.prompt.get(ENCODER), row.ids) for row in self.rows])
        decoder, mask = pad_left(
            [base.join(row.prompt.get(DECODER), [base.start_id, *row.answer]) for row in self.rows]
        )
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        output = base.model(
            encoder_outputs=base.model.get_encoder()(inputs_embeds=encoder, attention_mask=encoder_mask),
            attention_mask=encoder_mask,
            decoder_inputs_embeds=decoder,
            decoder_attention_mask=mask,
            use_cache=True,
            **{base.cache_argument: self.cache},
        )
        self._logits = output.logits[:, -1].float()
        self.source_lengths = [int(length) for length in encoder_mask.sum(dim=1)]
        self.spans = [(mask.shape[1] - int(length), mask.shape[1]) for length in mask.sum(dim=1)]


class Seq2SeqBatch(Batch):
    """B rows of an encoder-decoder model."""

    def __init__(self, base: Seq2SeqModel) -> None:
        self._base = base
        self._timeline = Timeline()
        self._sources = _Sources()

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, Seq2SeqPrefill)
        self._timeline.join(prefill.cache.self_attention_cache.layers, prefill.spans)
        self._sources.join(prefill.cache.cross_attention_cache.layers, prefill.source_lengths)

    def leave(self, index: int) -> None:
        self._timeline.leave(index)
        self._sources.leave(index)

    def advance(self, tokens: Tensor) -> Tensor:
        base = self._base
        embeddings = base.model.get_input_embeddings()(tokens[:, None])
        source_mask = self._sources.mask(base.device)
        # Only its shape is looked at: the keys and values made of it are in the cache.
        encoded = embeddings.new_zeros(1, 1, 1).expand(*source_mask.shape, embeddings.shape[-1])
        cache = EncoderDecoderCache(self._timeline.cache(), self._sources.cache())
        output = base.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=source_mask,
            decoder_inputs_embeds=embeddings,
            decoder_attention_mask=self._timeline.mask(base.device),
            use_cache=True,
            **{base.cache_argument: cache},
        )
        self._timeline.grow()
        logits: Tensor = output.logits[:, -1].float()
        return logits


class _Sources:
    """The keys and values of what the encoder has read, [rows, heads, S, D] in each layer."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []

    def join(self, layers: Sequence[Any], lengths: Sequence[int]) -> None:
        """Takes in rows whose first `lengths` positions in the cache's `layers` count."""
        old, rows = len(self._lengths), len(self._lengths) + len(lengths)
        self._make_room(layers, rows, max(*self._lengths, *lengths, 0))
        width = max(lengths)
        for (keys, values), read in zip(self._layers, layers, strict=True):
            keys[old:rows, :, :width] = read.keys[:, :, :width]
            values[old:rows, :, :width] = read.values[:, :, :width]
        self._lengths += lengths

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""
        last = self._lengths.pop()
        if index < len(self._lengths):
            for layer in self._layers:
                for tensor in layer:
                    tensor[index, :, :last] = tensor[len(self._lengths), :, :last]
            self._lengths[index] = last
        if not self._lengths:
            self._layers = []

    def mask(self, device: torch.device) -> Tensor:
        """Which positions are a row's own: [B, longest] (int64)."""
        lengths = torch.tensor(self._lengths, device=device)
        return (torch.arange(max(self._lengths), device=device) < lengths[:, None]).long()

    def cache(self) -> Cache:
        """What a decoder's cross-attention reads; it is complete."""
        rows, longest = len(self._lengths), max(self._lengths)
        layers = []
        for keys, values in self._layers:
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.keys, layer.values = keys[:rows, :, :longest], values[:rows, :, :longest]
            layer.is_initialized = True
            layers.append(layer)
        return Cache(layers=list(layers))

    def _make_room(self, like: Sequence[Any], rows: int, longest: int) -> None:
        old = len(self._lengths)
        has_rows, has_longest = self._layers[0][0].shape[::2] if self._layers else (0, 0)
        if rows <= has_rows and longest <= has_longest:
            return
        rows = has_rows if rows <= has_rows else 1 << (rows - 1).bit_length()
        longest = max(longest, has_longest)
        moved = []
        for number, read in enumerate(like):
            pair = []
            for side, shaped in enumerate((read.keys, read.values)):
                new = shaped.new_zeros(rows, shaped.shape[1], longest, shaped.shape[3])
                if old:
                    new[:old, :, :has_longest] = self._layers[number][side][:old]
                pair.append(new)
            moved.append((pair[0], pair[1]))
        self._layers = moved
