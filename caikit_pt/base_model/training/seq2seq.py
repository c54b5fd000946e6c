"""Encoder-decoder models in training: encoders read `[prompt][text]`, decoders `[prompt][start][target]`.

Each side has a soft prompt of its own, or none. Padding is behind a row, where absolute positions and
relative ones both leave it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.attention import Rows, Scoring
from caikit_pt.base_model.layers.packing import mask_of_none, packed
from caikit_pt.base_model.layers.reading import reading
from caikit_pt.base_model.padding import pad_right, row_losses
from caikit_pt.base_model.row import PromptTensors, TrainingBatch, prompt_length
from caikit_pt.base_model.training.packed import losses_of_rows, places, rounded, target_positions
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.training.step import LeafPrompts, Step
from caikit_pt.parameters.tuning import DECODER, ENCODER


class Seq2SeqTraining(TrainingSide):
    """The training side of encoder-decoder models."""

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        return PackedSeq2SeqStep(self, prompts)

    def padded_losses(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> Tensor:
        weights = self.weights
        encoder, encoder_mask = pad_right(self.encoder_rows(prompts, batch))
        decoder, decoder_mask = pad_right(self.decoder_rows(prompts, batch))
        logits = weights.forward(
            inputs_embeds=encoder,
            attention_mask=encoder_mask,
            decoder_inputs_embeds=decoder,
            decoder_attention_mask=decoder_mask,
        ).logits
        labels = torch.full(logits.shape[:2], -100, device=weights.device)
        for label, prompt, target in zip(labels, prompts, batch.targets, strict=True):
            begin = prompt_length(prompt, DECODER)
            label[begin : begin + len(target)] = torch.tensor(target, device=weights.device)
        return row_losses(logits, labels)

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

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        side, weights, prompts = self._side, self._side.weights, self._prompts.of_rows(batch)
        sources, targets = side.encoder_rows(prompts, batch), side.decoder_rows(prompts, batch)
        encoding = _TwoSides(list(map(len, sources)), list(map(len, sources)), side)
        mask = mask_of_none(weights.device)
        with packed(encoding):
            encoded = weights.model.get_encoder()(
                inputs_embeds=_packed(sources, encoding)[None], attention_mask=mask
            ).last_hidden_state
        decoding = _TwoSides(
            list(map(len, targets)), list(map(len, sources)), side, target_positions(targets, batch)
        )
        with packed(decoding), reading(decoding.pick):
            logits = weights.forward(
                encoder_outputs=(encoded,),
                attention_mask=mask,
                decoder_inputs_embeds=_packed(targets, decoding)[None],
                decoder_attention_mask=mask,
            ).logits[0]
        return losses_of_rows(logits, batch)

    def finish(self) -> None:
        self._prompts.carry_on()


class _TwoSides:
    """Of an encoder, or of a decoder that also looks at what was encoded."""

    read = None

    def __init__(
        self, own: Sequence[int], other: Sequence[int], side: Seq2SeqTraining, predict: Tensor | None = None
    ) -> None:
        rounds, device = side.rounds_rows, side.weights.device
        # Without a decoder prompt every position predicts a target token.
        every = predict is None or len(predict) == sum(own)
        at = None if predict is None or every else rounded(predict, rounds, sum(own))
        least = 0 if predict is None or at is None else len(at) - len(predict)
        self._predicting = None if at is None else at.to(device)
        self.longest = max(*own, *other)
        self.positions = rounded(places(own), rounds, least=least).to(device)
        self._own, self._other, self._device = own, other, device

    @cached_property
    def _causal(self) -> Rows:
        return Rows(self._own, self._own, self._device, causal=True)

    @cached_property
    def _bidirectional(self) -> Rows:
        return Rows(self._own, self._other, self._device, causal=False)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        rows = self._causal if module.is_causal else self._bidirectional
        return rows.attend(query, key, value, scoring)

    def collect(self) -> None:
        raise NotImplementedError

    def pick(self, hidden: Tensor) -> Tensor:
        """Of [1, N, H] the positions [1, R, H] that predict target tokens, for `reading`."""
        return hidden if self._predicting is None else hidden[:, self._predicting]


def _packed(rows: Sequence[Tensor], layout: _TwoSides) -> Tensor:
    """Rows [T_i, H] one behind another, as many positions as `layout` has: [N, H]."""
    missing = len(layout.positions) - sum(map(len, rows))
    # Any numbers will do that a model can reckon with.
    return torch.cat([*rows, rows[0].detach()[:1].expand(missing, -1)])
