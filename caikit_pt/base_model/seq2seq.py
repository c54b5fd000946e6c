"""Encoder-decoder models: the encoder reads `[prompt][text][pad]`, the decoder `[pad][prompt][start]`.

Each side has a soft prompt of its own, or none. The encoder's padding is behind the text, where
absolute positions and relative ones both leave it alone. The decoder's is in front, so that all
rows write their next token in the same place.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.batch import Batch, Prefill
from caikit_pt.base_model.frozen import (
    BaseModel,
    Decoding,
    PromptTensors,
    Row,
    TrainingBatch,
    pad_left,
    pad_right,
    prompt_length,
    row_losses,
    with_one_more,
)
from caikit_pt.base_model.seq2seq_text import Seq2SeqText
from caikit_pt.parameters.tuning import DECODER, ENCODER

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.step import Step


class Seq2SeqModel(Seq2SeqText, BaseModel):
    """A frozen encoder-decoder model."""

    def source_logits(self, row: Row) -> torch.Tensor | None:
        return None

    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> torch.Tensor:
        import torch

        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            decoder_input_ids=torch.tensor([[self.start_id, *answer]], device=self.device),
            use_cache=False,
        ).logits
        return logits[0].float()

    def padded_losses(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
        import torch

        encoder, encoder_mask = pad_right(self.encoder_rows(prompts, batch))
        decoder, decoder_mask = pad_right(self.decoder_rows(prompts, batch))
        logits = self.model(
            inputs_embeds=encoder,
            attention_mask=encoder_mask,
            decoder_inputs_embeds=decoder,
            decoder_attention_mask=decoder_mask,
            use_cache=False,
        ).logits
        labels = torch.full(logits.shape[:2], -100, device=self.device)
        for label, prompt, target in zip(labels, prompts, batch.targets, strict=True):
            begin = prompt_length(prompt, DECODER)
            label[begin : begin + len(target)] = torch.tensor(target, device=self.device)
        return row_losses(logits, labels)

    def encoder_rows(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> list[torch.Tensor]:
        """What the encoder reads of each row, [P + T, H]."""
        pairs = zip(prompts, batch.sources, strict=True)
        return [self.join(prompt.get(ENCODER), source) for prompt, source in pairs]

    def decoder_rows(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> list[torch.Tensor]:
        """What the decoder reads of each row, [P + K, H]: the target from the start token on."""
        pairs = zip(prompts, batch.targets, strict=True)
        return [self.join(prompt.get(DECODER), [self.start_id, *target[:-1]]) for prompt, target in pairs]

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        from caikit_pt.base_model.step import PackedSeq2SeqStep

        return PackedSeq2SeqStep(self, prompts)

    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        return prompt_length(prompt, ENCODER) + source + prompt_length(prompt, DECODER) + target

    def cohort(self, row: Row) -> Hashable:
        # A decoder that counts absolute positions can't have padding in front of a row.
        return 0 if self.shift_invariant else prompt_length(row.prompt, DECODER) + len(row.answer)

    def start(self, rows: Sequence[Row]) -> Decoding:
        return Seq2SeqDecoding(self, rows)

    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        from caikit_pt.base_model.seq2seq_batch import Seq2SeqPrefill

        return Seq2SeqPrefill(self, rows)

    def growing_batch(self) -> Batch:
        from caikit_pt.base_model.seq2seq_batch import Seq2SeqBatch

        return Seq2SeqBatch(self)

    @cached_property
    def shift_invariant(self) -> bool:
        """Whether padding in front of the decoder's input changes nothing: tried, not looked up."""
        import torch

        with torch.no_grad():
            start = self.embed([self.start_id, self.end_id, self.start_id, self.end_id])[None]
            encoded = self.embed([self.end_id])[None]
            mask = torch.ones(1, 4, dtype=torch.long, device=self.device)
            pad = torch.nn.functional.pad
            plain = self._decode(encoded, mask[:, :1], start, mask).last_hidden_state
            shifted = self._decode(
                encoded, mask[:, :1], pad(start, (0, 0, 3, 0)), pad(mask, (3, 0))
            ).last_hidden_state
        difference = (plain[:, -1] - shifted[:, -1]).abs().max()
        # A false "no" only costs a batch of its own; a false "yes" costs right answers.
        tolerance = 1e-5 if self.dtype in (torch.float32, torch.float64) else 1e-3
        return bool(difference <= tolerance * plain[:, -1].abs().max())

    def _decode(
        self,
        encoded: torch.Tensor,
        encoder_mask: torch.Tensor,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
    ) -> Any:
        return self.model.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=encoder_mask,
            use_cache=False,
        )


class Seq2SeqDecoding(Decoding):
    """Rows of an encoder-decoder model; the decoder's are aligned at the end."""

    def __init__(self, base: Seq2SeqModel, rows: Sequence[Row]) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self._base = base
        encoder, self._encoder_mask = pad_right([base.join(row.prompt.get(ENCODER), row.ids) for row in rows])
        self._encoded = base.model.get_encoder()(inputs_embeds=encoder, attention_mask=self._encoder_mask)
        decoder, self._mask = pad_left(
            [base.join(row.prompt.get(DECODER), [base.start_id, *row.answer]) for row in rows]
        )
        config = base.model.config
        self._cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        self._read(decoder)

    def advance(self, tokens: torch.Tensor) -> None:
        self._mask = with_one_more(self._mask)
        self._read(self._base.model.get_input_embeddings()(tokens[:, None]))

    def _read(self, embeddings: torch.Tensor) -> None:
        output = self._base.model(
            encoder_outputs=self._encoded,
            attention_mask=self._encoder_mask,
            decoder_inputs_embeds=embeddings,
            decoder_attention_mask=self._mask,
            use_cache=True,
            **{self._base.cache_argument: self._cache},
        )
        self.logits = output.logits[:, -1].float()
