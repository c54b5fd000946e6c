"""caikit_pt's own updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.training.records import Record
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.tuning.batches import windows
from caikit_pt.tuning.losses import backward


class ProductLoop:
    """One epoch over `records` in windows of `window`, with `prompts` soft prompts of `length` tokens."""

    def __init__(
        self, base: BaseModel, records: Sequence[Record], window: int, length: int, prompts: int = 1
    ) -> None:
        self._base, self._records, self._window = base, records, window
        generator = torch.Generator().manual_seed(0)
        part = base.checkpoint.prompt_parts[0]
        width = base.checkpoint.hidden_size
        starts = [torch.randn(length, width, generator=generator) * 0.02 for _ in range(prompts)]
        self.prompts = [{part: start.to(base.weights.device).requires_grad_()} for start in starts]
        weights = [tensor for prompt in self.prompts for tensor in prompt.values()]
        self._optimizer = torch.optim.AdamW(weights, lr=0.3, weight_decay=0.0)
        lengths = None if base.training.trains_packed else [record.tokens for record in records]
        self._windows = list(windows(len(records), window, generator, lengths))

    def run(self) -> None:
        """Every update of the first prompt."""
        for window in self._windows:
            self.update([[self._records[index] for index in window]])

    def update(self, windows: Sequence[Sequence[Record]]) -> None:
        """One step of the optimiser: for each prompt, its window."""
        self._optimizer.zero_grad()
        self.backward(windows)
        self._optimizer.step()

    def backward(self, windows: Sequence[Sequence[Record]]) -> torch.Tensor:
        """Losses of all rows; each prompt gets the gradient of the mean over its window's target tokens."""
        records = [record for window in windows for record in window]
        tokens = [sum(len(record.target) for record in window) for window in windows]
        weights = [1 / total for total, window in zip(tokens, windows, strict=True) for _ in window]
        owners = [number for number, window in enumerate(windows) for _ in window]
        batch = TrainingBatch(
            [record.source for record in records], [record.target for record in records], owners
        )
        return backward(self._base, self.prompts, batch, weights)
