"""Batches whose steps have few shapes, each at the same addresses from step to step: for accelerators.

What a batch is kept in, its store, outlives it: the next batch is kept in the same place, so that steps
that have been captured for it go on.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.buckets import bucket
from caikit_pt.base_model.layers.stepping import stepping
from caikit_pt.base_model.serving.batch import Batch, Prefill
from caikit_pt.base_model.serving.captured_steps import CapturedSteps


class StaticPart(Protocol):
    """Keys and values of rows, in tensors that stay where they are."""

    # Another one when its tensors lie elsewhere.
    place: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells steps of one shape from others."""

    def clear(self) -> None:
        """All rows go."""

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""

    def settle(self) -> None:
        """Makes room for a step."""


class StaticStore(ABC):
    """All that steps of a batch read and write. A family's has its `parts`, and says what a step is."""

    parts: Sequence[StaticPart]

    def __init__(self, weights: FrozenWeights, steps: CapturedSteps) -> None:
        """`steps`: how steps are captured."""
        self.weights, self._steps = weights, steps
        self._tokens = torch.zeros(0, dtype=torch.long, device=weights.device)
        self._places: list[int] = []

    @abstractmethod
    def join(self, prefill: Prefill) -> None:
        """Takes in rows that have been read, behind those there are."""

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor:
        """The logits [R, V] after `tokens` [R] of all rows that there is room for; the rows are moved on."""

    @abstractmethod
    def take_back(self) -> None:
        """A step that is on the device, and not `grown` yet, wasn't taken."""

    @abstractmethod
    def grown(self) -> None:
        """A step was taken, as the host sees it."""

    def advance(self, tokens: Tensor) -> Tensor:
        """The logits [B, V] after the next token [B] of every row; the next step writes over them."""
        for part in self.parts:
            part.settle()
        count, rows = len(tokens), bucket(len(tokens))
        if len(self._tokens) < rows:
            self._tokens = tokens.new_zeros(rows)
            self._steps.clear()
        # Where every step finds them.
        self._tokens[:count].copy_(tokens)
        places = [part.place for part in self.parts]
        if places != self._places:
            self._steps.clear()
            self._places = places
        shape = tuple(part.shape for part in self.parts)
        logits = self._steps.take(shape, partial(self._step, rows), self.take_back, count)
        self.grown()
        return logits[:count]

    def _step(self, rows: int) -> Tensor:
        with stepping():
            return self.step(self._tokens[:rows])


class StaticBatch(Batch):
    """B rows in a store that is theirs for as long as there are any."""

    def __init__(self, store: StaticStore, idle: list[StaticStore]) -> None:
        """The store goes to the `idle` ones when nobody holds the batch any more."""
        for part in store.parts:
            part.clear()
        self._store = store
        self._gives_back = weakref.finalize(self, idle.append, store)

    def discard(self) -> None:
        self._gives_back.detach()

    def join(self, prefill: Prefill) -> None:
        self._store.join(prefill)

    def leave(self, index: int) -> None:
        for part in self._store.parts:
            part.leave(index)

    def advance(self, tokens: Tensor) -> Tensor:
        return self._store.advance(tokens).float()
