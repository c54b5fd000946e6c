"""Attention of packed rows in one call, for accelerators: bins of whole rows, and a mask that parts them.

A row attends to itself and to a prefix. To compute what lies between the rows of a bin and throw it away is
less work for a GPU than to gather rows by length: nothing is copied for each row, and however many rows there
are, a layer takes the same few operations.

Letters: n bins, S positions of a bin, P of a prefix, h heads of queries, h' of keys and values, d width of a
head, Q positions of a bin that ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from caikit_pt.base_model.layers.attention import Rows, Scoring

# Positions of a bin that holds more than one row: the surplus grows with them, and calls are small below.
_SIZE = 512
# Kernels want rows of a mask to begin at such a multiple.
_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class Bins:
    """Row i of each side stands in bin `bins[i]`, `starts[side][i]` positions from the packed tensor's start;
    a bin of a side has `sizes[side]` positions."""

    bins: Sequence[int]
    starts: Sequence[Sequence[int]]
    sizes: Sequence[int]

    @property
    def count(self) -> int:
        """n."""
        return self.bins[-1] + 1

    def filled(self, side: int, rows: Sequence[Tensor], filling: int) -> Tensor:
        """What `rows` [T_i] say of their positions, for all positions of a side: [n, S] (int64)."""
        whole = torch.full((self.count * self.sizes[side],), filling)
        for start, row in zip(self.starts[side], rows, strict=True):
            whole[start : start + len(row)] = row
        return whole.view(self.count, -1)


def binned(sides: Sequence[Sequence[int]], kinds: Sequence[int] | None = None, prefix: int = 0) -> Bins:
    """Bins for rows whose lengths are given by side, such as an encoder's and a decoder's.

    Rows of one bin are neighbours, and of one of `kinds`. In front of each bin there will be a `prefix`.
    """
    kinds = kinds or [0] * len(sides[0])
    sizes = [_multiple(max(*lengths, min(_SIZE, sum(lengths))) + prefix) - prefix for lengths in sides]
    bins: list[int] = []
    starts: list[list[int]] = [[] for _ in sides]
    bin, filled, kind = 0, [0] * len(sides), kinds[0]
    for row, own in enumerate(zip(*sides, strict=True)):
        full = any(had + more > size for had, more, size in zip(filled, own, sizes, strict=True))
        if full or kinds[row] != kind:
            bin, filled, kind = bin + 1, [0] * len(sides), kinds[row]
        bins.append(bin)
        for side, length in enumerate(own):
            starts[side].append(bin * sizes[side] + filled[side])
            filled[side] += length
    return Bins(bins, starts, sizes)


@dataclass(frozen=True, slots=True)
class Places:
    """Of each position of a bin, [n, S] (int64): the row that it is of, -1 of none, and its place in it."""

    row: Tensor
    place: Tensor


class Spans:
    """Which positions attend to which, bin by bin.

    In front of the keys of bin i stand those of a prefix that `prefix` [n, P] picks by their place among all
    prefixes, and the places are from the prefix's start; those that are -1 are nobody's.
    """

    def __init__(self, queries: Places, keys: Places, causal: bool, prefix: Tensor | None = None) -> None:
        self._queries, self._keys, self._causal, self._prefix = queries, keys, causal, prefix
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._biased: tuple[Tensor, Tensor] | None = None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
        prefix: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Of query [1, h, n Q, d], key and value [1, h', n S, d]: [1, n Q, h, d].

        `prefix` has the keys and values of all prefixes, [1, h', P, d] together.
        """
        bins = len(self._queries.row)
        query, key, value = (_in_bins(part, bins) for part in (query, key, value))
        if prefix is not None:
            front = (
                self._front(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
                for parts in zip(*prefix, strict=True)
            )
            key, value = (torch.cat(pair, dim=2) for pair in zip(front, (key, value), strict=True))
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (
                part[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for part in (key, value)
            )
        answer = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._added(scoring, query.dtype), scale=scoring.scaling
        )
        return answer.transpose(1, 2).flatten(0, 1)[None]

    def _front(self, all_prefixes: Tensor) -> Tensor:
        """What stands in front of each bin, [n, h', P, d]."""
        assert self._prefix is not None
        bins, length = self._prefix.shape
        if length == all_prefixes.shape[2]:
            return all_prefixes.expand(bins, -1, -1, -1)
        return _in_bins(all_prefixes.index_select(2, self._prefix.flatten().clamp(min=0)), bins)

    def _added(self, scoring: Scoring, dtype: torch.dtype) -> Tensor:
        """What is added to the scores, [n, 1 or h, Q, P + S]."""
        mask = self._mask(scoring.sliding_window, dtype)
        bias = scoring.position_bias
        if bias is None or bias.shape[-1] == 1:
            # A single number is added to all scores alike, and changes no weight.
            return mask
        if self._biased is None or self._biased[0] is not bias:
            # By distance, and the same for all layers: looked up once.
            by_place = bias[0][:, self._queries.place[:, :, None], self._keys.place[:, None, :]]
            self._biased = bias, by_place.transpose(0, 1) + mask
        return self._biased[1]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a position is seen, else -inf: [n, 1, Q, P + S]."""
        if (window, dtype) not in self._masks:
            queries, keys = self._queries, self._keys
            seen = queries.row[:, :, None] == keys.row[:, None, :]
            distance = queries.place[:, :, None] - keys.place[:, None, :]
            if self._causal:
                seen = seen & (distance >= 0)
            if window is not None:
                seen = seen & (distance < window)
            # Of what sees nothing neither result nor gradient is a number.
            seen = seen | (queries.row < 0)[:, :, None]
            if self._prefix is not None:
                seen = torch.cat([self._seen_in_front(window), seen], dim=2)
            self._masks[window, dtype] = torch.where(seen, 0.0, -torch.inf).to(dtype)[:, None]
        return self._masks[window, dtype]

    def _seen_in_front(self, window: int | None) -> Tensor:
        """[n, Q, P]; nobody's positions see it, too, so that there is something that they see."""
        assert self._prefix is not None
        seen = (self._prefix >= 0)[:, None]
        if window is not None:
            places = torch.arange(self._prefix.shape[1], device=seen.device)
            return seen & (self._queries.place[:, :, None] - places < window)
        return seen.expand(-1, self._queries.row.shape[1], -1)


Attending: TypeAlias = "Rows | Spans"


def _in_bins(packed: Tensor, bins: int) -> Tensor:
    """Of [1, h, n S, d]: [n, h, S, d]."""
    heads, width = packed.shape[1], packed.shape[3]
    return packed.reshape(heads, bins, -1, width).transpose(0, 1)


def _multiple(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
