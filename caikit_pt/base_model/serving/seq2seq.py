"""Encoder-decoder models in serving: the encoder reads once, the decoder goes on from what it read.

The encoder reads `[prompt][text][pad]`, the decoder `[pad][prompt][start]`: its padding is in front, so that
all rows write their next token in the same place. The decoder's own keys and values are on one timeline,
those of the encoder's output in slots beside it, aligned at the start.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.parcel import Parcel
from caikit_pt.base_model.layers.slots import Slots
from caikit_pt.base_model.layers.static_slots import StaticSlots
from caikit_pt.base_model.layers.static_timeline import StaticTimeline
from caikit_pt.base_model.layers.timeline import Timeline
from caikit_pt.base_model.row import Row, prompt_length
from caikit_pt.base_model.serving.batch import Batch, Decoding, Prefill, position_bytes
from caikit_pt.base_model.serving.inputs import Inputs
from caikit_pt.base_model.serving.padding import pad_left, pad_right, with_one_more
from caikit_pt.base_model.serving.side import ServingSide
from caikit_pt.base_model.serving.static import StaticStore
from caikit_pt.parameters.tuning import DECODER, ENCODER


class Seq2SeqServing(ServingSide):
    """The serving side of encoder-decoder models."""

    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        return Seq2SeqPrefill(self, rows)

    def growing_batch(self) -> Batch:
        return Seq2SeqBatch(self)

    def static_store(self) -> StaticStore:
        return Seq2SeqStore(self)

    def start(self, rows: Sequence[Row]) -> Decoding:
        return Seq2SeqDecoding(self, rows)

    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> Tensor:
        device = self.weights.device
        logits: Tensor = self.weights.model(
            input_ids=torch.tensor([ids], device=device),
            decoder_input_ids=torch.tensor([[*self.text.start_ids, *answer]], device=device),
            use_cache=False,
        ).logits
        return logits[0].float()

    def source_logits(self, row: Row) -> Tensor | None:
        return None

    def cohort(self, row: Row) -> Hashable:
        # A decoder that counts absolute positions can't have padding in front of a row.
        return 0 if self.shift_invariant else prompt_length(row.prompt, DECODER) + len(row.answer)

    def read_at_once(self, row: Row) -> int:
        # An encoder can't stop, and a model that is served alone isn't read otherwise.
        return self.text.served_positions(row, len(row.answer))

    def both_sides(self, rows: Sequence[Row]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What encoder and decoder read of `rows`, [B, T, H] and [B, K, H], and the mask of each."""
        weights, start = self.weights, self.text.start_ids
        encoder = [weights.join(row.prompt.get(ENCODER), row.ids) for row in rows]
        decoder = [weights.join(row.prompt.get(DECODER), [*start, *row.answer]) for row in rows]
        return pad_right(encoder), pad_left(decoder)

    @cached_property
    def shift_invariant(self) -> bool:
        """Whether padding in front of the decoder's input changes nothing: tried, not looked up."""
        with torch.no_grad():
            tokens = 2 * [*self.text.start_ids, self.text.end_id]
            start = self.weights.embed(tokens)[None]
            encoded = self.weights.embed([self.text.end_id])[None]
            mask = torch.ones(1, len(tokens), dtype=torch.long, device=self.weights.device)
            pad = torch.nn.functional.pad
            plain = self._decode(encoded, mask[:, :1], start, mask).last_hidden_state
            shifted = self._decode(
                encoded, mask[:, :1], pad(start, (0, 0, 3, 0)), pad(mask, (3, 0))
            ).last_hidden_state
        difference = (plain[:, -1] - shifted[:, -1]).abs().max()
        # A false "no" only costs a batch of its own; a false "yes" costs right answers.
        tolerance = 1e-5 if self.weights.dtype in (torch.float32, torch.float64) else 1e-3
        return bool(difference <= tolerance * plain[:, -1].abs().max())

    def _decode(
        self,
        encoded: Tensor,
        encoder_mask: Tensor,
        embeddings: Tensor,
        mask: Tensor,
    ) -> Any:
        return self.weights.model.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=encoder_mask,
            use_cache=False,
        )


class Seq2SeqDecoding(Decoding):
    """Rows of an encoder-decoder model; the decoder's are aligned at the end."""

    def __init__(self, side: Seq2SeqServing, rows: Sequence[Row]) -> None:
        self._weights = side.weights
        (encoder, self._encoder_mask), (decoder, self._mask) = side.both_sides(rows)
        model = side.weights.model
        self._encoded = model.get_encoder()(inputs_embeds=encoder, attention_mask=self._encoder_mask)
        config = model.config
        self._cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        self._read(decoder)

    def advance(self, tokens: Tensor) -> None:
        self._mask = with_one_more(self._mask)
        self._read(self._weights.embed(tokens[:, None]))

    def _read(self, embeddings: Tensor) -> None:
        output = self._weights.forward(
            cache=self._cache,
            encoder_outputs=self._encoded,
            attention_mask=self._encoder_mask,
            decoder_inputs_embeds=embeddings,
            decoder_attention_mask=self._mask,
        )
        self.logits = output.logits[:, -1].float()


class Seq2SeqPrefill(Prefill):
    """b rows of an encoder-decoder model that are being read: all at once, since an encoder can't stop."""

    def __init__(self, side: Seq2SeqServing, rows: Sequence[Row]) -> None:
        self.rows, self.parcel = rows, Parcel(side.weights.device)
        self._weights = weights = side.weights
        self._encoder = Inputs(
            weights, self.parcel, [(row.prompt.get(ENCODER), row.ids) for row in rows], at_end=False
        )
        begun = [(row.prompt.get(DECODER), [*side.text.start_ids, *row.answer]) for row in rows]
        self._decoder = Inputs(weights, self.parcel, begun, at_end=True)
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
        weights = self._weights
        self.parcel.send()
        encoder, encoder_mask = self._encoder.embeddings(), self._encoder.mask()
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        encoded = weights.model.get_encoder()(inputs_embeds=encoder, attention_mask=encoder_mask)
        output = weights.forward(
            cache=self.cache,
            encoder_outputs=encoded,
            attention_mask=encoder_mask,
            decoder_inputs_embeds=self._decoder.embeddings(),
            decoder_attention_mask=self._decoder.mask(),
        )
        self._logits = output.logits[:, -1].float()
        self.source_lengths = self._encoder.lengths
        longest = max(self._decoder.lengths)
        self.spans = [(longest - length, longest) for length in self._decoder.lengths]


class Seq2SeqBatch(Batch):
    """B rows of an encoder-decoder model."""

    def __init__(self, side: Seq2SeqServing) -> None:
        self._weights = side.weights
        self._timeline = Timeline()
        self._sources = Slots()

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, Seq2SeqPrefill)
        self._timeline.join(prefill.cache.self_attention_cache.layers, prefill.spans)
        self._sources.join(prefill.cache.cross_attention_cache.layers, prefill.source_lengths)

    def leave(self, index: int) -> None:
        self._timeline.leave(index)
        self._sources.leave(index)

    def advance(self, tokens: Tensor) -> Tensor:
        line, sources, device = self._timeline, self._sources, self._weights.device
        cache = EncoderDecoderCache(line.cache(), sources.cache())
        source_mask = sources.mask(device)
        logits = _step(self._weights, tokens, cache, source_mask, line.mask(device), source_mask.shape)
        line.grow()
        return logits.float()


class Seq2SeqStore(StaticStore):
    """Rows of an encoder-decoder model whose steps have few shapes."""

    def __init__(self, side: Seq2SeqServing) -> None:
        super().__init__(side.weights, side.captured_steps())
        self._timeline = StaticTimeline(side.weights.device)
        self._sources = StaticSlots(side.weights.device)
        self.parts = (self._timeline, self._sources)

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, Seq2SeqPrefill)
        self._timeline.join(prefill.cache.self_attention_cache.layers, prefill.spans)
        self._sources.join(prefill.cache.cross_attention_cache.layers, prefill.source_lengths)

    def step(self, tokens: Tensor) -> Tensor:
        line, sources = self._timeline, self._sources
        cache = EncoderDecoderCache(line.cache(), sources.cache())
        logits = _step(self.weights, tokens, cache, sources.mask(), line.mask(), sources.shape)
        line.grow()
        return logits

    def take_back(self) -> None:
        self._timeline.take_back()

    def grown(self) -> None:
        self._timeline.grown()


def _step(
    weights: FrozenWeights,
    tokens: Tensor,
    cache: EncoderDecoderCache,
    source_mask: Tensor,
    mask: Tensor,
    sources: Sequence[int],
) -> Tensor:
    """The logits [B, V] after `tokens` [B] of rows that have read `sources`, [B, S] positions."""
    embeddings = weights.embed(tokens[:, None])
    # Only its shape is looked at: the keys and values made of it are in the cache.
    encoded = embeddings.new_zeros(1, 1, 1).expand(*sources, embeddings.shape[-1])
    output = weights.forward(
        cache=cache,
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        attention_mask=source_mask,
        decoder_inputs_embeds=embeddings,
        decoder_attention_mask=mask,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
