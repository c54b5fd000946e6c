"""peft's PromptTuning in a plain loop: AdamW, a rate that falls to zero on a line, no trick and no defect.

The rival gets all that is ours by right: the same token ids, so the same separator and end token, the
same kind of start, as many virtual tokens, as many updates of as many records. Batches are padded
behind: peft puts its prompt in front of padding that stands before the text, and drops the positions
(peft#1093). Its frozen model is in eval mode, since dropout in it only harms. For a seq2seq model the
prompt stands in front of the encoder's input, as ours does; peft's second half, in front of the
decoder's, would get no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from transformers import get_linear_schedule_with_warmup

from caikit_pt.base_model.family import CAUSAL
from caikit_pt.base_model.loading.weights import read_weights
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import RANDOM, SAMPLE_VOCAB
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.batches import updates_per_epoch, windows
from caikit_pt.tuning.examples import Example, make_examples
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Records

_IGNORED = -100


class PeftLoop:
    """The training of `plan` as peft's users would write it, at the learning rate `rate`."""

    def __init__(self, base: BaseModel, plan: TuningPlan, rate: float) -> None:
        self._plan, self._base = plan, base
        self._causal = base.checkpoint.family == CAUSAL
        self._part = base.checkpoint.prompt_parts[0]
        parameters = plan.parameters
        self.updates = parameters.num_epochs * updates_per_epoch(len(plan.records), parameters.window)
        self.model = self._wrapped()
        self.weight: torch.Tensor = self.model.prompt_encoder["default"].embedding.weight
        if not self._has_our_start:
            self._start_as_ours()
        self._optimizer = torch.optim.AdamW([self.weight], lr=rate, weight_decay=0.0)
        self._schedule = get_linear_schedule_with_warmup(  # type: ignore[no-untyped-call]
            self._optimizer, 0, self.updates
        )

    def run(self, records: Records) -> SoftPrompt:
        """All updates, over and over `records`. Raises TrainingDiverged."""
        examples = make_examples(records, self._base.text, self._plan.parameters)
        for window in self._windows(len(examples)):
            loss = self.update([examples.items[index] for index in window])
            if not isfinite(loss):
                raise TrainingDiverged(f"The loss of peft's loop is {loss}.")
        return self.prompt

    def update(self, batch: Sequence[Example]) -> float:
        """One, by the mean loss over the target tokens of `batch` (nats a token), which is returned."""
        self._optimizer.zero_grad()
        loss = self.model(**(self._causal_batch(batch) if self._causal else self._seq2seq_batch(batch))).loss
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())

    @property
    def learning_rate(self) -> float:
        """That of the next update."""
        return float(self._schedule.get_last_lr()[0])

    @property
    def prompt(self) -> SoftPrompt:
        """As it is now. Our own code answers with it, as peft's does one by one."""
        return SoftPrompt({self._part: self.weight.detach().float().cpu().clone()})

    @property
    def _has_our_start(self) -> bool:
        """Whether peft draws a start of our name. TEXT isn't drawn: ours has the same rows."""
        return self._plan.parameters.prompt_tuning_init_method in (RANDOM, SAMPLE_VOCAB)

    def _wrapped(self) -> Any:
        """peft changes the model that it wraps, so it gets one of its own, as transformers loads it; torch's
        generator draws its start."""
        parameters = self._plan.parameters
        config = PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM if self._causal else TaskType.SEQ_2_SEQ_LM,
            num_virtual_tokens=parameters.num_virtual_tokens,
            num_transformer_submodules=1,
            prompt_tuning_init=parameters.prompt_tuning_init_method if self._has_our_start else RANDOM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(parameters.seed)
            own = read_weights(self._base.checkpoint, str(self._base.weights.dtype).removeprefix("torch."))
            model: Any = get_peft_model(own.to(self._base.weights.device), config)
        return model.eval()

    def _start_as_ours(self) -> None:
        """With our first rows."""
        generator = torch.Generator().manual_seed(self._plan.parameters.seed)
        start = Start(self._base, self._plan.parameters, generator, self._plan.source)
        with torch.no_grad():
            self.weight.copy_(initial_prompt(start).tensors[self._part])

    def _windows(self, examples: int) -> Iterator[list[int]]:
        """Epoch after epoch in a new order, until all updates are made."""
        generator = torch.Generator().manual_seed(self._plan.parameters.seed)
        made = 0
        while True:
            for window in windows(examples, self._plan.parameters.window, generator):
                if made == self.updates:
                    return
                made += 1
                yield window

    def _causal_batch(self, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Ids, mask and labels [B, T]: the text with its target behind it, then the padding."""
        return _tensors(
            self._base.text.end_id,
            [[*one.source, *one.target] for one in batch],
            [[_IGNORED] * len(one.source) + one.target for one in batch],
        )

    def _seq2seq_batch(self, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Ids and mask [B, T] of the sources, labels [B, K] of the targets, each padded behind."""
        return _tensors(self._base.text.end_id, [one.source for one in batch], [one.target for one in batch])


def _tensors(padding: int, ids: list[list[int]], labels: list[list[int]]) -> dict[str, torch.Tensor]:
    """Masked out and not counted, it doesn't matter which token pads."""
    return {
        "input_ids": _padded(ids, padding),
        "attention_mask": _padded([[1] * len(row) for row in ids], 0),
        "labels": _padded(labels, _IGNORED),
    }


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
