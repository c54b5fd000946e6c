"""Keys and values of rows that are complete, aligned at the start: what an encoder has read.

Rows are compact: one that leaves is replaced by the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from caikit_pt.base_model.layers.parcel import sent


class Slots:
    """The keys and values of B rows, [rows, heads, S, D] in each layer."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []

    def join(self, layers: Sequence[Any], lengths: Sequence[int]) -> None:
        """Takes in rows whose first `lengths` positions in the cache's `layers` count."""
        old, rows = len(self._lengths), len(self._lengths) + len(lengths)
        self._make_room(layers, rows, max(*self._lengths, *lengths, 0))
        width = max(lengths)
        for (keys, values), read in zip(self._layers, layers, strict=True):
            keys[old:rows, :, :width] = read.keys[:, :, :width]
            values[old:rows, :, :width] = read.values[:, :, :width]
        self._lengths += lengths

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""
        last = self._lengths.pop()
        if index < len(self._lengths):
            for layer in self._layers:
                for tensor in layer:
                    tensor[index, :, :last] = tensor[len(self._lengths), :, :last]
            self._lengths[index] = last
        if not self._lengths:
            self._layers = []

    def mask(self, device: torch.device) -> Tensor:
        """Which positions are a row's own: [B, longest] (int64)."""
        lengths = sent(torch.tensor(self._lengths), device)
        return (torch.arange(max(self._lengths), device=device) < lengths[:, None]).long()

    def cache(self) -> Cache:
        """What cross-attention reads; it is complete."""
        rows, longest = len(self._lengths), max(self._lengths)
        layers = []
        for keys, values in self._layers:
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.keys, layer.values = keys[:rows, :, :longest], values[:rows, :, :longest]
            layer.is_initialized = True
            layers.append(layer)
        return Cache(layers=list(layers))

    def _make_room(self, like: Sequence[Any], rows: int, longest: int) -> None:
        old = len(self._lengths)
        has_rows, has_longest = self._layers[0][0].shape[::2] if self._layers else (0, 0)
        if rows <= has_rows and longest <= has_longest:
            return
        rows = has_rows if rows <= has_rows else 1 << (rows - 1).bit_length()
        longest = max(longest, has_longest)
        moved = []
        for number, read in enumerate(like):
            pair = []
            for side, shaped in enumerate((read.keys, read.values)):
                new = shaped.new_zeros(rows, shaped.shape[1], longest, shaped.shape[3])
                if old:
                    new[:old, :, :has_longest] = self._layers[number][side][:old]
                pair.append(new)
            moved.append((pair[0], pair[1]))
        self._layers = moved
