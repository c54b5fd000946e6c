"""Keys and values of rows that are being generated, all of which end at the same position.

    row 0      . . . . k k k k k|
    row 1      . k k k k k k k k|      B rows, compact: a row that leaves is replaced by the last
    row 2      . . . . . . k k k|
                 begin        end      the next token of every row is written here

Aligned at the end, every row writes its next key in one slice, and distances between positions are
what they are in the row alone, which is what sliding windows, ALiBi and T5's relative bias look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from caikit_pt.base_model.layers.parcel import sent

if TYPE_CHECKING:
    from torch import Tensor

# Steps that a timeline has room for before its rows are moved to a new one: a copy of all, once in so many.
_HEADROOM = 32


class Timeline:
    """The keys and values of B rows in every layer of a decoder."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.end = 0
        self._layers: list[_Layer] = []

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Positions of the longest row."""
        return max(self.lengths, default=0)

    @property
    def begin(self) -> int:
        """The first position that a row occupies."""
        return self.end - self.longest

    def join(self, layers: Sequence[Any], spans: Sequence[tuple[int, int]]) -> None:
        """Takes in rows that have been read: the cache's `layers`, [b, heads, S, D] each, and of each row
        the positions [begin, end) of S that are its own."""
        lengths = [end - begin for begin, end in spans]
        if not self._layers:
            self._layers = [_Layer(self) for _ in layers]
        self._make_room(layers, len(self) + len(spans), max(self.longest, *lengths))
        for layer, read in zip(self._layers, layers, strict=True):
            for number, (begin, end) in enumerate(spans):
                layer.write(
                    len(self) + number, read.keys[number, :, begin:end], read.values[number, :, begin:end]
                )
        self.lengths += lengths

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""
        last = self.lengths.pop()
        if index < len(self):
            span = slice(self.end - last, self.end)
            for layer in self._layers:
                layer.keys[index, :, span] = layer.keys[len(self), :, span]
                layer.values[index, :, span] = layer.values[len(self), :, span]
            self.lengths[index] = last
        if not self.lengths:
            self._layers, self.end = [], 0

    def cache(self) -> Cache:
        """What a forward pass over one more position of every row reads and writes."""
        if self.end == self._layers[0].capacity:
            self._make_room(self._layers, len(self), self.longest)
        return Cache(layers=list(self._layers))

    def grow(self) -> None:
        """Every row has got one position more."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def mask(self, device: torch.device) -> Tensor:
        """Which positions are a row's own, with the one that comes next: [B, longest + 1] (int64)."""
        lengths = sent(torch.tensor(self.lengths), device)
        positions = torch.arange(self.longest + 1, device=device)
        return (positions >= self.longest - lengths[:, None]).long()

    def _make_room(self, like: Sequence[Any], rows: int, longest: int) -> None:
        """Room for `rows` rows of up to `longest` positions and a step more; those there are move there."""
        some = self._layers[0]
        if rows <= some.rows and longest <= self.end < some.capacity:
            return
        begin, end = self.begin, self.end
        self.end = longest
        rows = some.rows if rows <= some.rows else 1 << (rows - 1).bit_length()
        for layer, shaped in zip(self._layers, like, strict=True):
            layer.move(shaped, rows, longest + _HEADROOM + longest // 4, len(self), slice(begin, end))


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of a timeline, as transformers' models know a cache's layer."""

    keys: Any
    values: Any

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._timeline = timeline
        self.is_initialized = True

    @property
    def rows(self) -> int:
        """Rows that there is room for."""
        return 0 if self.keys is None else int(self.keys.shape[0])

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    def write(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Puts keys and values [heads, T, D] at the end of `row`."""
        span = slice(self._timeline.end - keys.shape[1], self._timeline.end)
        self.keys[row, :, span] = keys
        self.values[row, :, span] = values

    def move(self, like: Any, rows: int, capacity: int, filled: int, span: slice) -> None:
        """New tensors of the shape of `like`'s; the `filled` rows' positions `span` go to the new end."""
        end = self._timeline.end
        for name in ("keys", "values"):
            old, shape = getattr(self, name), getattr(like, name)
            new = _zeros((rows, shape.shape[1], capacity, shape.shape[3]), shape)
            if filled:
                new[:filled, :, end - (span.stop - span.start) : end] = old[:filled, :, span]
            setattr(self, name, new)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        line = self._timeline
        rows, begin, end = len(line), line.begin, line.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, begin : end + 1], self.values[:rows, :, begin : end + 1]

    def get_seq_length(self) -> int:
        return self._timeline.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._timeline.longest + query_length, 0


def _zeros(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros, for what a mask hides is multiplied by nought and must not be nan.

    On a CPU memory that the system hands out is zero, and costs nothing until it is written; torch
    writes it.
    """
    if like.device.type != "cpu":
        return like.new_zeros(size)
    raw = np.zeros(math.prod(size) * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(raw).view(like.dtype).view(size)
