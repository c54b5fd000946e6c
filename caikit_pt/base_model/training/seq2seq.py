"""Encoder-decoder models in training: encoders read `[prompt][text]`, decoders `[prompt][start][target]`.

Each side has a soft prompt of its own, or none. Padding is behind a row, where absolute positions and
relative ones both leave it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.attention import Rows, Scoring
from caikit_pt.base_model.layers.packing import mask_of_none, packed
from caikit_pt.base_model.layers.parcel import upload
from caikit_pt.base_model.layers.reading import Read, reading
from caikit_pt.base_model.layers.spans import Attending, Places, Spans, binned
from caikit_pt.base_model.row import PromptTensors, TrainingBatch, prompt_length
from caikit_pt.base_model.training.packed import (
    before_ends,
    labels_of,
    places,
    rounded,
    target_positions,
)
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.training.step import LeafPrompts, Step
from caikit_pt.base_model.training.table import RowTable, padded, picked
from caikit_pt.base_model.training.targets import Targets, read_at
from caikit_pt.parameters.tuning import DECODER, ENCODER


class Seq2SeqTraining(TrainingSide):
    """The training side of encoder-decoder models."""

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        return PackedSeq2SeqStep(self, prompts)

    def padded_targets(
        self, prompts: Sequence[PromptTensors], batch: TrainingBatch, layers: Collection[int] = ()
    ) -> Targets:
        start, table = self.text.start_ids, RowTable(prompts, self.text.end_id)
        encoder = [table.row(ENCODER, row, ids) for row, ids in enumerate(batch.sources)]
        decoder = [table.row(DECODER, row, [*start, *ids[:-1]]) for row, ids in enumerate(batch.targets)]
        read, read_mask = padded(encoder, table.nobody, left=False)
        written, written_mask = padded(decoder, table.nobody, left=False)
        ends = [row * written.shape[1] + len(own) for row, own in enumerate(decoder)]
        told = [torch.tensor(table.ids), read_mask, written_mask, *table.told(read), *table.told(written)]
        told += [before_ends(ends, batch.targets), *labels_of(batch)]
        sent = upload(told, self.weights.device)
        rows, (read_mask, written_mask), (at, labels, of) = (
            table.embedded(self.weights, sent[0]),
            sent[1:3],
            sent[9:],
        )
        with reading(layers=layers) as what:
            logits = self.weights.forward(
                inputs_embeds=picked(rows, *sent[3:6]).view(*read_mask.shape, -1),
                attention_mask=read_mask,
                decoder_inputs_embeds=picked(rows, *sent[6:9]).view(*written_mask.shape, -1),
                decoder_attention_mask=written_mask,
            ).logits
        return read_at(at, logits, what.states, labels, of, len(encoder))

    def encoder_rows(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> list[Tensor]:
        """What the encoder reads of each row, [P + T, H]."""
        pairs = zip(prompts, batch.sources, strict=True)
        return [self.weights.join(prompt.get(ENCODER), source) for prompt, source in pairs]

    def decoder_rows(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> list[Tensor]:
        """What the decoder reads of each row, [P + K, H]: the target from the start token on."""
        start, pairs = self.text.start_ids, zip(prompts, batch.targets, strict=True)
        return [self.weights.join(prompt.get(DECODER), [*start, *target[:-1]]) for prompt, target in pairs]

    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        return prompt_length(prompt, ENCODER) + source + prompt_length(prompt, DECODER) + target


class PackedSeq2SeqStep(Step):
    """For encoder-decoder models: the rows of either side one behind another.

    An encoder's prompt looks at the text behind it, and a decoder's at what was encoded, so neither can
    be shared between rows.
    """

    def __init__(self, side: Seq2SeqTraining, prompts: Sequence[PromptTensors]) -> None:
        self._side = side
        self._prompts = LeafPrompts(prompts)

    def targets(self, batch: TrainingBatch, layers: Collection[int] = ()) -> Targets:
        weights = self._side.weights
        reads = _read_tight if weights.device.type == "cpu" else _read_in_bins
        what = reads(self._side, self._prompts, batch)
        mask = mask_of_none(weights.device)
        with packed(what.encoding):
            encoded = weights.model.get_encoder()(
                inputs_embeds=what.encoder[None], attention_mask=mask
            ).last_hidden_state
        with packed(what.decoding), _reading(what.predicting, layers) as read:
            logits = weights.forward(
                encoder_outputs=(encoded,),
                attention_mask=mask,
                decoder_inputs_embeds=what.decoder[None],
                decoder_attention_mask=mask,
            ).logits[0]
        states = {layer: own[0] for layer, own in read.states.items()}
        return Targets(logits, states, what.labels, what.rows, len(batch.targets))

    def finish(self) -> None:
        self._prompts.carry_on()


class _TwoSides:
    """Of an encoder, or of a decoder that also looks at what was encoded."""

    read = None

    def __init__(self, own: Attending | None, other: Attending, positions: Tensor, longest: int) -> None:
        """`own`: from each row to itself, causal; `other`: to what the encoder reads of it."""
        self.positions, self.longest = positions, longest
        self._own, self._other = own, other

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        attention = self._own if module.is_causal else self._other
        assert attention is not None
        return attention.attend(query, key, value, scoring)

    def collect(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Reading:
    """What both sides get, [N, H] each, and how; `predicting` [R] are the decoder's positions that predict
    target tokens (None: all). And, all [L], these tokens and the rows that they are of."""

    encoder: Tensor
    encoding: _TwoSides
    decoder: Tensor
    decoding: _TwoSides
    predicting: Tensor | None
    labels: Tensor
    rows: Tensor


def _read_tight(side: Seq2SeqTraining, prompts: LeafPrompts, batch: TrainingBatch) -> _Reading:
    """One behind another, grouped by length in attention: for CPUs, where calls are cheap and work isn't."""
    rounds = side.rounds_rows
    of_rows = prompts.of_rows(batch)
    sources, targets = side.encoder_rows(of_rows, batch), side.decoder_rows(of_rows, batch)
    encoder, decoder = list(map(len, sources)), list(map(len, targets))
    encoding = _TwoSides(
        None,
        Rows(encoder, encoder, causal=False),
        rounded(places(encoder), rounds),
        max(encoder),
    )
    predicting = target_positions(targets, batch)
    # Without a decoder prompt every position predicts a target token.
    at = None if len(predicting) == sum(decoder) else rounded(predicting, rounds, sum(decoder))
    decoding = _TwoSides(
        Rows(decoder, decoder, causal=True),
        Rows(decoder, encoder, causal=False),
        rounded(places(decoder), rounds, least=0 if at is None else len(at) - len(predicting)),
        max(*decoder, *encoder),
    )
    return _Reading(
        _packed(sources, encoding), encoding, _packed(targets, decoding), decoding, at, *labels_of(batch)
    )


def _read_in_bins(side: Seq2SeqTraining, prompts: LeafPrompts, batch: TrainingBatch) -> _Reading:
    """In bins, a row's two sides in bins of one number: for accelerators."""
    owners, start = batch.prompt_of_rows, side.text.start_ids
    table = RowTable(prompts.prompts, side.text.end_id)
    encoder = [table.row(ENCODER, own, ids) for own, ids in zip(owners, batch.sources, strict=True)]
    decoder = [
        table.row(DECODER, own, [*start, *target[:-1]])
        for own, target in zip(owners, batch.targets, strict=True)
    ]
    lengths = [list(map(len, encoder)), list(map(len, decoder))]
    bins = binned(lengths)
    ends = list(map(sum, zip(bins.starts[1], lengths[1], strict=True)))
    told = [torch.tensor(table.ids)]
    for number, rows in enumerate((encoder, decoder)):
        told += [
            *table.told(bins.filled(number, rows, table.nobody)),
            bins.filled(number, [torch.full_like(row, index) for index, row in enumerate(rows)], -1),
            bins.filled(number, [torch.arange(len(row)) for row in rows], 0),
        ]
    told += [before_ends(ends, batch.targets), *labels_of(batch)]
    ids, *sent = upload(told, side.weights.device)
    (*reads, row, place), (*writes, own_row, own_place), (at, labels, of) = sent[:5], sent[5:10], sent[10:]
    read, written = Places(row, place), Places(own_row, own_place)
    rows_of_both = table.embedded(side.weights, ids)
    encoding = _TwoSides(None, Spans(read, read, causal=False), read.place.flatten(), max(lengths[0]))
    decoding = _TwoSides(
        Spans(written, written, causal=True),
        Spans(written, read, causal=False),
        own_place.flatten(),
        max(*lengths[0], *lengths[1]),
    )
    return _Reading(
        picked(rows_of_both, *reads),
        encoding,
        picked(rows_of_both, *writes),
        decoding,
        at,
        labels,
        of,
    )


def _reading(positions: Tensor | None, layers: Collection[int]) -> AbstractContextManager[Read]:
    """Logits, and the states of `layers`, at `positions` [R] of packed ones; None: at all."""
    if positions is None:
        return reading(layers=layers)
    return reading(lambda hidden: hidden.index_select(1, positions), layers)


def _packed(rows: Sequence[Tensor], layout: _TwoSides) -> Tensor:
    """Rows [T_i, H] one behind another, as many positions as `layout` has: [N, H]."""
    missing = len(layout.positions) - sum(map(len, rows))
    # Any numbers will do that a model can reckon with.
    return torch.cat([*rows, rows[0].detach()[:1].expand(missing, -1)])
