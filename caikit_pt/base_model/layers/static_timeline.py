"""A timeline whose steps all have the same shapes and addresses: what a GPU can be given to repeat.

    row 0      . . . . k k k k k|. . .
    row 1      . k k k k k k k k|. . .      R rows and C columns, both a bucket; B of the rows count
    row 2      . . . . . . k k k|. . .
                 start        end    C      the next token of every row is written at the end

As in `timeline`, rows end at the same position. Here that position is a number on the device, which a step
moves on by itself, and the first position of each row is another; the mask and the positions are made of
these. Rows that don't count are computed too, as if they began where the first one does. Joining, leaving
and moving happen between steps and without a wait. All buckets are corners of one tensor for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from caikit_pt.base_model.layers.buckets import bucket, room

if TYPE_CHECKING:
    from torch import Tensor

# Steps that there is room for when rows have been moved, at least.
_HEADROOM = 16
_FEWEST_COLUMNS = 64


class StaticTimeline:
    """The keys and values of B rows in every layer of a decoder, on an accelerator."""

    def __init__(self, device: torch.device) -> None:
        self.lengths: list[int] = []
        self.rows = self.columns = 0
        self.end = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._device = device
        self._has_rows = self._has_columns = 0
        self._changed = True
        # Another one when the tensors lie elsewhere.
        self.place = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Positions of the longest row."""
        return max(self.lengths, default=0)

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells steps of one shape from others."""
        return self.rows, self.columns

    def clear(self) -> None:
        """Without a row, and with the room it has."""
        self.lengths, self.end = [], 0

    def join(self, layers: Sequence[Any], spans: Sequence[tuple[int, int]]) -> None:
        """Takes in rows that have been read: the cache's `layers`, [b, heads, S, D] each, and of each row
        the positions [begin, end) of S that are its own."""
        old = len(self)
        lengths = [end - begin for begin, end in spans]
        self._make_room(layers, old + len(spans), max(self.longest, *lengths))
        for keys, values, read in zip(self.keys, self.values, layers, strict=True):
            for row, (begin, end) in enumerate(spans, old):
                own = slice(self.end - (end - begin), self.end)
                keys[row, :, own] = read.keys[row - old, :, begin:end]
                values[row, :, own] = read.values[row - old, :, begin:end]
        for row, length in enumerate(lengths, old):
            self._starts[row].fill_(self.end - length)
        self.lengths += lengths
        self._changed = True

    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""
        length = self.lengths.pop()
        last = len(self)
        if index < last:
            span = slice(self.end - length, self.end)
            for tensor in (*self.keys, *self.values):
                tensor[index, :, span] = tensor[last, :, span]
            self._starts[index] = self._starts[last]
            self.lengths[index] = length
        self._changed = True

    def settle(self) -> None:
        """Before a step: there is room for it, in the smallest bucket that isn't left again at once."""
        needed = self._columns_for(self.longest)
        if self.end == self.columns or 2 * needed <= self.columns:
            self._move(self.keys, len(self), self.longest, needed)
        if self._changed:
            self.rows = bucket(len(self))
            self._starts[len(self) :] = self._starts[0]
            self._changed = False

    def cache(self) -> Cache:
        """What a forward pass over one more position of every row reads and writes."""
        return Cache(layers=[_Layer(self, number) for number in range(len(self.keys))])

    def mask(self) -> Tensor:
        """Which positions are a row's own, or come later: [R, C] (bool)."""
        return self._numbers[: self.columns] >= self._starts[: self.rows, None]

    def positions(self) -> Tensor:
        """Where in each row its next position is: [R, 1]."""
        return (self._end - self._starts[: self.rows])[:, None]

    def grow(self) -> None:
        """Every row has got one position more, as the device is to see it: a part of the step."""
        self._end.add_(1)

    def take_back(self) -> None:
        """On the device a step that the host hasn't seen yet wasn't taken."""
        self._end.fill_(self.end)

    def grown(self) -> None:
        """Every row has got one position more, as the host sees it."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def written(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [R, heads, C, D] of a layer, with those of the next position [R, heads, 1, D]."""
        held = (
            self.keys[layer][: self.rows, :, : self.columns],
            self.values[layer][: self.rows, :, : self.columns],
        )
        for tensor, new in zip(held, (keys, values), strict=True):
            tensor.index_copy_(2, self._end, new)
        return held

    @property
    def offset(self) -> Tensor:
        """Positions in front of the next one, on the device."""
        return self._end[0]

    # ---- room ----

    def _columns_for(self, longest: int) -> int:
        return max(_FEWEST_COLUMNS, bucket(longest + _HEADROOM))

    def _make_room(self, like: Sequence[Any], rows: int, longest: int) -> None:
        """Room for `rows` rows of up to `longest` positions."""
        fits = bool(self.keys) and rows <= self._has_rows and longest <= self.end <= self.columns
        if fits and self.lengths:
            return
        shaped = self.keys or [layer.keys for layer in like]
        values = self.values or [layer.values for layer in like]
        self._move(shaped, rows, longest, self._columns_for(longest), values)

    def _move(
        self,
        keys: Sequence[Tensor],
        rows: int,
        longest: int,
        columns: int,
        values: Sequence[Tensor] | None = None,
    ) -> None:
        """The rows to where `longest` positions end; into new tensors where the old ones are too small."""
        count, length, old_end = len(self), self.longest, self.end
        fits = bool(self.keys) and rows <= self._has_rows and columns <= self._has_columns
        self.columns, self.end = columns, longest
        held = self.keys, self.values
        if not fits:
            self.place += 1
            size = room((self._has_rows, self._has_columns), (bucket(rows), columns))
            self._has_rows, self._has_columns = size
            self.keys = [_zeros(size, each) for each in keys]
            self.values = [_zeros(size, each) for each in values or self.values]
        for olds, news in zip(held, (self.keys, self.values), strict=True):
            for old, new in zip(olds, news, strict=False):
                if count and not (new is old and longest == old_end):
                    own = old[:count, :, old_end - length : old_end]
                    new[:count, :, longest - length : longest] = own.clone() if new is old else own
        self._place(not fits, longest - old_end)

    def _place(self, anew: bool, by: int) -> None:
        """Where rows begin and end, for the device."""
        self._changed = True
        if anew:
            starts = torch.zeros(self._has_rows, dtype=torch.long, device=self._device)
            for row, length in enumerate(self.lengths):
                starts[row].fill_(self.end - length)
            self._starts = starts
            self._numbers = torch.arange(self._has_columns, device=self._device)
            self._end = torch.full((1,), self.end, device=self._device)
        else:
            self._starts.add_(by)
            self._end.fill_(self.end)


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of a timeline, as transformers' models know a layer of a cache that is never reallocated."""

    is_compileable = True

    def __init__(self, timeline: StaticTimeline, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._timeline, self._number = timeline, number
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._timeline.written(self._number, key_states, value_states)

    def get_seq_length(self) -> Any:
        return self._timeline.offset

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._timeline.columns, 0


def _zeros(size: tuple[int, int], like: Tensor) -> Tensor:
    """[rows, heads, columns, D]: what a mask hides is multiplied by nought and must not be nan."""
    return like.new_zeros(size[0], like.shape[1], size[1], like.shape[3])
