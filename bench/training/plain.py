"""A loop of our own on plain transformers: what can be had before a model is told how to work.

Letters in shapes: B rows, P virtual tokens, T positions, R target tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bench.training.case import Case
from bench.training.records import Record, batches_of
from caikit_pt.base_model.loading.checkpoint import cache_argument

_IGNORED = -100


class PlainLoop(ABC):
    """Updates of a soft prompt over `records`, in micro-batches of much the same length, without dropout.

    Logits and loss are computed at the target positions only.
    """

    def __init__(self, case: Case, network: Any, records: Sequence[Record]) -> None:
        self._case, self._network = case, network
        by_length = sorted(records, key=lambda record: -record.tokens)
        self._windows = batches_of(by_length, case.window)
        start = torch.randn(case.prompt, case.shape.width, device=case.device) * 0.02
        self.prompt = start.requires_grad_()
        self._optimizer = torch.optim.AdamW([self.prompt], lr=0.3, weight_decay=0.0)

    def run(self) -> None:
        """Every update."""
        for window in self._windows:
            self._optimizer.zero_grad()
            self.backward(window)
            self._optimizer.step()

    def backward(self, window: Sequence[Record]) -> None:
        """The gradient of the mean loss over the target tokens of `window` goes to the prompt."""
        tokens = sum(len(record.target) for record in window)
        for micro_batch in batches_of(window, self._case.batch):
            (self._loss(micro_batch) / tokens).backward()  # type: ignore[no-untyped-call]

    def _loss(self, records: Sequence[Record]) -> Tensor:
        """Summed cross-entropy over all target tokens."""
        labels = self._labels(records)
        read = labels != _IGNORED
        logits = self._network.lm_head(self._hidden(records)[read])
        return torch.nn.functional.cross_entropy(logits.float(), labels[read], reduction="sum")

    def _prompts(self, rows: int) -> Tensor:
        """The soft prompt in front of each row, [B, P, H]."""
        return self.prompt.to(self._case.torch_dtype).expand(rows, -1, -1)

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self._network.get_input_embeddings()(ids)
        return embedded

    @abstractmethod
    def _labels(self, records: Sequence[Record]) -> Tensor:
        """The token [B, T] that each position predicts, or -100."""

    @abstractmethod
    def _hidden(self, records: Sequence[Record]) -> Tensor:
        """The last hidden states [B, T, H] of the positions of `_labels`."""


class PlainSeq2Seq(PlainLoop):
    """For a T5: both sides padded behind."""

    def _labels(self, records: Sequence[Record]) -> Tensor:
        return _rows([record.target for record in records], _IGNORED, self._case.device)

    def _hidden(self, records: Sequence[Record]) -> Tensor:
        sources = _rows([record.source for record in records], _IGNORED, self._case.device)
        mask = torch.nn.functional.pad((sources != _IGNORED).long(), (self._case.prompt, 0), value=1)
        text = self._embed(sources.clamp(min=0))
        encoded = self._network.get_encoder()(
            inputs_embeds=torch.cat([self._prompts(len(records)), text], dim=1), attention_mask=mask
        ).last_hidden_state
        targets = _rows([[0, *record.target[:-1]] for record in records], 0, self._case.device)
        hidden: Tensor = self._network.get_decoder()(
            input_ids=targets, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden


class PlainCausal(PlainLoop):
    """For a Llama: padding between prompt and text as the peer has it, but positions don't count it."""

    left = True

    def _labels(self, records: Sequence[Record]) -> Tensor:
        rows = [[_IGNORED] * (len(record.source) - 1) + record.target for record in records]
        return _rows(rows, _IGNORED, self._case.device, self.left)

    def _texts(self, records: Sequence[Record]) -> Tensor:
        """The ids [B, T] that the model reads, padded by -100."""
        rows = [record.source + record.target[:-1] for record in records]
        return _rows(rows, _IGNORED, self._case.device, self.left)

    def _hidden(self, records: Sequence[Record]) -> Tensor:
        texts = self._texts(records)
        mask = torch.nn.functional.pad((texts != _IGNORED).long(), (self._case.prompt, 0), value=1)
        return self._forward(
            torch.cat([self._prompts(len(records)), self._embed(texts.clamp(min=0))], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        )[:, self._case.prompt :]

    def _forward(self, embeddings: Tensor, **arguments: Any) -> Tensor:
        arguments.setdefault("use_cache", False)
        hidden: Tensor = self._network.model(inputs_embeds=embeddings, **arguments).last_hidden_state
        return hidden


class PlainCausalRight(PlainCausal):
    """Padding behind the text, where no position looks: attention needs no mask but the causal one."""

    left = False

    def _hidden(self, records: Sequence[Record]) -> Tensor:
        text = self._embed(self._texts(records).clamp(min=0))
        whole = torch.cat([self._prompts(len(records)), text], dim=1)
        return self._forward(whole)[:, self._case.prompt :]


class PlainCausalShared(PlainCausalRight):
    """And the prompt's keys and values once an update: leaves, whose gradients go back at its end."""

    def backward(self, window: Sequence[Record]) -> None:
        origins = self._prompt_pass()
        self._leaves = [tensor.detach().requires_grad_() for tensor in origins]
        super().backward(window)
        torch.autograd.backward(origins, [leaf.grad for leaf in self._leaves])

    def _prompt_pass(self) -> list[Tensor]:
        """Keys and values [1, h, P, d] of every layer in turn."""
        cache = DynamicCache(config=self._network.config)
        self._forward(self._prompts(1), **self._reads(cache))
        layers: list[Any] = cache.layers
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    def _hidden(self, records: Sequence[Record]) -> Tensor:
        cache = DynamicCache(config=self._network.config)
        for layer in range(self._case.shape.layers):
            keys, values = self._leaves[2 * layer : 2 * layer + 2]
            cache.update(
                keys.expand(len(records), -1, -1, -1), values.expand(len(records), -1, -1, -1), layer
            )
        text = self._embed(self._texts(records).clamp(min=0))
        return self._forward(text, **self._reads(cache))

    def _reads(self, cache: DynamicCache) -> dict[str, Any]:
        """The arguments of a forward pass behind what is in the cache, and into it."""
        return {str(cache_argument(type(self._network.model))): cache, "use_cache": True}


def _rows(rows: Sequence[list[int]], padding: int, device: str, left: bool = False) -> Tensor:
    """Ids [B, T]."""
    length = max(map(len, rows))
    pads = [[padding] * (length - len(row)) for row in rows]
    pairs = zip(pads, rows, strict=True)
    return torch.tensor([pad + row if left else row + pad for pad, row in pairs], device=device)
