"""Slots whose steps all have the same shapes and addresses; `static_timeline` says what for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from caikit_pt.base_model.layers.buckets import bucket, room

_FEWEST_COLUMNS = 16


class StaticSlots:
    """The keys and values of B rows that are complete, [rows, heads, S, D] in each layer."""

    def __init__(self, device: torch.device) -> None:
        self.rows = self.columns = 0
        self._device = device
        self._lengths: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._has_rows = self._has_columns = 0
        self._changed = True
        # Another one when the tensors lie elsewhere.
        self.place = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells steps of one shape from others."""
        return self.rows, self.columns

    def clear(self) -> None:
        """Without a row, and with the room it has."""
        self._lengths = []

    def join(self, layers: Sequence[Any], lengths: Sequence[int]) -> None:
        """Takes in rows whose first `lengths` positions in the cache's `layers` count."""
        old, rows, width = len(self._lengths), len(self._lengths) + len(lengths), max(lengths)
        self._make_room(layers, rows, max(*self._lengths, *lengths, 0))
        for held, read in zip(self._layers, layers, strict=True):
            for tensor, new in zip(held, (read.keys, read.values), strict=True):
                tensor[old:rows, :, :width] = new[:, :, :width]
        for row, length in enumerate(lengths, old):
            self._on_device[row].fill_(length)
        self._lengths += lengths
        self._changed = True

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""
        length = self._lengths.pop()
        last = len(self._lengths)
        if index < last:
            for layer in self._layers:
                for tensor in layer:
                    tensor[index, :, :length] = tensor[last, :, :length]
            self._on_device[index] = self._on_device[last]
            self._lengths[index] = length
        self._changed = True

    def settle(self) -> None:
        """Before a step: in the smallest bucket. Rows that don't count are as long as the first."""
        if not self._changed:
            return
        self._changed = False
        self.rows = bucket(len(self._lengths))
        self.columns = max(_FEWEST_COLUMNS, bucket(max(self._lengths)))
        self._on_device[len(self._lengths) :] = self._on_device[0]

    def mask(self) -> Tensor:
        """Which positions are a row's own: [R, 1, 1, S] (bool)."""
        lengths = self._on_device[: self.rows, None, None, None]
        return self._numbers[: self.columns] < lengths

    def cache(self) -> Cache:
        """What cross-attention reads; it is complete."""
        layers = []
        for keys, values in self._layers:
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.keys = keys[: self.rows, :, : self.columns]
            layer.values = values[: self.rows, :, : self.columns]
            layer.is_initialized = True
            layers.append(layer)
        return Cache(layers=list(layers))

    def _make_room(self, like: Sequence[Any], rows: int, longest: int) -> None:
        if rows <= self._has_rows and longest <= self._has_columns:
            return
        self.place += 1
        needs = bucket(rows), max(_FEWEST_COLUMNS, bucket(longest))
        self._has_rows, self._has_columns = room((self._has_rows, self._has_columns), needs)
        held, count = self._layers, len(self._lengths)
        self._layers = [(self._zeros(read.keys), self._zeros(read.values)) for read in like]
        for olds, news in zip(held, self._layers, strict=False):
            for old, new in zip(olds, news, strict=True):
                width = min(old.shape[2], new.shape[2])
                new[:count, :, :width] = old[:count, :, :width]
        self._numbers = torch.arange(self._has_columns, device=self._device)
        self._on_device = torch.zeros(self._has_rows, dtype=torch.long, device=self._device)
        for row, length in enumerate(self._lengths):
            self._on_device[row].fill_(length)

    def _zeros(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._has_rows, like.shape[1], self._has_columns, like.shape[3])
