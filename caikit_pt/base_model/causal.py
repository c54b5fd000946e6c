"""Decoder-only models: `[pad][prompt][text]`.

The padding stands before the prompt and the positions are counted from the prompt's first row, so a
row in a batch has exactly the numbers it has alone. peft puts the padding between the prompt and
the text and drops the positions (peft#1093), which changes answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.batch import Batch, Prefill
from caikit_pt.base_model.causal_text import CausalText
from caikit_pt.base_model.frozen import (
    BaseModel,
    Decoding,
    PromptTensors,
    Row,
    TrainingBatch,
    pad_left,
    prompt_length,
    row_losses,
    with_one_more,
)
from caikit_pt.parameters.tuning import DECODER

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.step import Step


class CausalModel(CausalText, BaseModel):
    """A frozen decoder-only model."""

    def source_logits(self, row: Row) -> torch.Tensor | None:
        import torch

        if not prompt_length(row.prompt, DECODER):
            return None
        with torch.inference_mode():
            embeddings, mask = pad_left([self.join(row.prompt[DECODER], row.ids)])
            output = self.forward(embeddings, mask, keep=len(row.ids) + 1)
        logits: torch.Tensor = output.logits[0].float()
        return logits[-len(row.ids) - 1 : -1]

    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> torch.Tensor:
        import torch

        whole = torch.tensor([[*ids, *answer]], device=self.device)
        logits: torch.Tensor = self.model(input_ids=whole, use_cache=False).logits[0].float()
        return logits[len(ids) - 1 :]

    def padded_losses(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
        import torch

        rows = [
            self.join(prompt.get(DECODER), [*source, *target[:-1]])
            for prompt, source, target in zip(prompts, batch.sources, batch.targets, strict=True)
        ]
        embeddings, mask = pad_left(rows)
        longest = max(map(len, batch.targets))
        # Aligned at the end, every target lies in the last K positions: the rest needs no logits.
        logits = self.forward(embeddings, mask, keep=longest).logits[:, -longest:]
        labels = torch.full((len(rows), longest), -100, device=self.device)
        for label, target in zip(labels, batch.targets, strict=True):
            label[longest - len(target) :] = torch.tensor(target, device=self.device)
        return row_losses(logits, labels)

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        from caikit_pt.base_model.step import PackedCausalStep

        return PackedCausalStep(self, prompts, common)

    @property
    def layers(self) -> int:
        """Layers with attention."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    def packed_logits(
        self, embeddings: torch.Tensor, positions: torch.Tensor, read: torch.Tensor
    ) -> torch.Tensor:
        """The logits [R, V] at `read` [R] of packed embeddings [N, H], whose places in their rows are
        `positions` [N]."""
        from caikit_pt.base_model.packing import mask_of_none

        optional = {"position_ids": positions[None], "logits_to_keep": read}
        logits: torch.Tensor = self.model(
            inputs_embeds=embeddings[None],
            attention_mask=mask_of_none(embeddings.device),
            use_cache=False,
            **{name: value for name, value in optional.items() if name in self._arguments},
        ).logits[0]
        return logits if "logits_to_keep" in self._arguments else logits[read]

    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        shared = 0 if self.trains_packed else prompt_length(prompt, DECODER)
        return shared + source + target - 1

    def start(self, rows: Sequence[Row]) -> Decoding:
        return CausalDecoding(self, rows)

    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        from caikit_pt.base_model.causal_batch import CausalPrefill

        return CausalPrefill(self, rows)

    def growing_batch(self) -> Batch:
        from caikit_pt.base_model.causal_batch import CausalBatch

        return CausalBatch(self)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor, keep: int, cache: Any = None) -> Any:
        """The model over [B, T, H] new positions; `mask` also covers what is in the cache.

        The logits are those of the last `keep` positions, 0: of all.
        """
        optional: dict[str, Any] = {}
        if "position_ids" in self._arguments:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            optional["position_ids"] = positions[:, -embeddings.shape[1] :]
        if "logits_to_keep" in self._arguments:
            optional["logits_to_keep"] = keep
        return self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            use_cache=cache is not None,
            **{self.cache_argument: cache},
            **optional,
        )

    @cached_property
    def _arguments(self) -> frozenset[str]:
        """What the model's forward takes: ALiBi models have no positions to be told."""
        return frozenset(signature(self.model.forward).parameters)


class CausalDecoding(Decoding):
    """Rows of a decoder-only model, aligned at the end."""

    def __init__(self, base: CausalModel, rows: Sequence[Row]) -> None:
        from transformers import DynamicCache

        self._base = base
        embeddings, self._mask = pad_left(
            [base.join(row.prompt.get(DECODER), [*row.ids, *row.answer]) for row in rows]
        )
        self._cache = DynamicCache(config=base.model.config)
        self._read(embeddings)

    def advance(self, tokens: torch.Tensor) -> None:
        self._mask = with_one_more(self._mask)
        self._read(self._base.model.get_input_embeddings()(tokens[:, None]))

    def _read(self, embeddings: torch.Tensor) -> None:
        output = self._base.forward(embeddings, self._mask, keep=1, cache=self._cache)
        self.logits = output.logits[:, -1].float()
