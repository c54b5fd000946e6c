"""caikit-nlp's training loop (0.5.15, `_execute_train_loop`), rebuilt line for line on current libraries.

Its own pins no longer install into something that imports. Three options take away what costs most;
with none of them it is the loop as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from bench.training.case import BFLOAT16, Case
from bench.training.records import MAX_SOURCE, MAX_TARGET, Record

_IGNORED = -100
_PAD = 0
_EPOCHS = 20  # that the schedule is made for


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """What of the loop is left as it is."""

    pad_to_limits: bool = True
    random_order: bool = True
    checkpointing: bool = True


class PeerLoop:
    """One epoch over `records` of a soft prompt in front of `network`."""

    def __init__(
        self, case: Case, network: Any, records: Sequence[Record], options: PeerOptions = PeerOptions()
    ) -> None:
        self._case, self._options = case, options
        if not options.random_order:
            records = sorted(records, key=lambda record: -record.tokens)
        # The peer's prompt takes the model's data type.
        model = get_peft_model(network, _config(case)).to(case.device, case.torch_dtype)
        loader: DataLoader[Any] = DataLoader(
            list(records),  # type: ignore[arg-type]
            batch_size=case.batch,
            collate_fn=self._causal_batch if case.shape.causal else self._seq2seq_batch,
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
        steps = len(loader) * _EPOCHS
        schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)  # type: ignore[no-untyped-call]
        if options.checkpointing:
            model.gradient_checkpointing_enable()
        self.accelerator = Accelerator(
            gradient_accumulation_steps=case.accumulate,
            cpu=case.device == "cpu",
            mixed_precision="bf16" if case.dtype == BFLOAT16 and case.device != "cpu" else "no",
        )
        model.config.use_cache = False
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule
        )
        self.model.train()
        self.prompt: torch.Tensor = model.prompt_encoder["default"].embedding.weight

    def run(self) -> None:
        """Every batch of the epoch."""
        for batch in self.loader:
            with self.accelerator.accumulate(self.model):
                self.backward(batch)
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()

    def backward(self, batch: dict[str, torch.Tensor]) -> float:
        """Mean loss over the target tokens of a batch; its gradient over `accumulate` goes to the prompt."""
        loss = self.model(**batch).loss
        value = float(loss.detach().float().item())
        self.accelerator.backward(loss)
        return value

    def _causal_batch(self, records: Sequence[Record]) -> dict[str, torch.Tensor]:
        """Ids, mask and labels [B, T], padded in front: the text with its target behind it."""
        limit = MAX_SOURCE + MAX_TARGET + 1
        length = self._length([record.tokens for record in records], limit)
        before = [length - record.tokens for record in records]
        pairs = list(zip(before, records, strict=True))
        return _tensors(
            input_ids=[[_PAD] * pad + record.source + record.target for pad, record in pairs],
            attention_mask=[[0] * pad + [1] * record.tokens for pad, record in pairs],
            labels=[[_IGNORED] * (pad + len(record.source)) + record.target for pad, record in pairs],
        )

    def _seq2seq_batch(self, records: Sequence[Record]) -> dict[str, torch.Tensor]:
        """Ids and mask [B, T] of sources, labels [B, K] of targets, each padded behind."""
        source = self._length([len(record.source) for record in records], MAX_SOURCE)
        target = self._length([len(record.target) for record in records], MAX_TARGET)
        return _tensors(
            input_ids=[_padded(record.source, source, _PAD) for record in records],
            attention_mask=[_padded([1] * len(record.source), source, 0) for record in records],
            labels=[_padded(record.target, target, _IGNORED) for record in records],
        )

    def _length(self, lengths: Sequence[int], limit: int) -> int:
        return limit if self._options.pad_to_limits else max(lengths)


def _config(case: Case) -> PromptTuningConfig:
    return PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM if case.shape.causal else TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=case.prompt,
        num_transformer_submodules=1,
    )


def _padded(ids: list[int], length: int, padding: int) -> list[int]:
    return ids + [padding] * (length - len(ids))


def _tensors(**columns: list[list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(rows) for name, rows in columns.items()}
