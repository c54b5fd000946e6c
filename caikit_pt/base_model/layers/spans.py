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
    """Row i stands in bin `bins[i]`, on each side `starts[side][i]` positions from the packed tensor's start;
    a bin of a side has `sizes[side]` positions, S."""

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
    bins: list[int] = []
    within: list[list[int]] = [[] for _ in sides]
    filled = [[0] for _ in sides]
    for row, own in enumerate(zip(*sides, strict=True)):
        full = any(had[-1] + more > _SIZE for had, more in zip(filled, own, strict=True))
        if row and (full or kinds[row] != kinds[row - 1]):
            filled = [[*had, 0] for had in filled]
        bins.append(len(filled[0]) - 1)
        for starts, had, length in zip(within, filled, own, strict=True):
            starts.append(had[-1])
            had[-1] += length
    # As wide as the fullest needs it.
    sizes = [_multiple(max(had) + prefix) - prefix for had in filled]
    starts_of_sides = [
        [bin * size + begin for bin, begin in zip(bins, own, strict=True)]
        for own, size in zip(within, sizes, strict=True)
    ]
    return Bins(bins, starts_of_sides, sizes)


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
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Of query [1, h, n Q, d], key and value [1, h', n S, d]: [1, n Q, h, d].

        `prefix` has the keys and values of all prefixes one behind another, [1, h', P, d].
        """
        bins = len(self._queries.row)
        query, key, value = (_in_bins(part, bins) for part in (query, key, value))
        if prefix is not None:
            front = map(self._front, prefix)
            key, value = (torch.cat(pair, dim=2) for pair in zip(front, (key, value), strict=True))
        groups = query.shape[1] // key.shape[1]
        answer = torch.nn.functional.scaled_dot_product_attention(
            _under_one_another(query, groups),
            key,
            value,
            attn_mask=self._added(scoring, query.dtype, groups),
            scale=scoring.scaling,
        )
        # [n, h', r, Q, d] with the r heads that share keys: [1, n Q, h, d].
        apart = answer.view(bins, key.shape[1], groups, -1, answer.shape[-1])
        return apart.permute(0, 3, 1, 2, 4).reshape(1, -1, query.shape[1], answer.shape[-1])

    def _front(self, all_prefixes: Tensor) -> Tensor:
        """What stands in front of each bin, [n, h', P, d]."""
        assert self._prefix is not None
        bins, length = self._prefix.shape
        if length == all_prefixes.shape[2]:
            return all_prefixes.expand(bins, -1, -1, -1)
        return _in_bins(all_prefixes.index_select(2, self._prefix.flatten().clamp(min=0)), bins)

    def _added(self, scoring: Scoring, dtype: torch.dtype, groups: int) -> Tensor:
        """What is added to the scores, [n, 1 or h', r Q, P + S] where r heads share keys."""
        mask = self._mask(scoring.sliding_window, dtype, groups)
        bias = scoring.position_bias
        if bias is None or bias.shape[-1] == 1:
            # A single number is added to all scores alike, and changes no weight.
            return mask
        if self._biased is None or self._biased[0] is not bias:
            # By distance, and the same for all layers: looked up once.
            places = self._queries.place[:, :, None], self._keys.place[:, None, :]
            by_place = bias[0][:, places[0], places[1]].transpose(0, 1)
            self._biased = bias, _under_one_another(by_place, groups).add_(mask)
        return self._biased[1]

    def _mask(self, window: int | None, dtype: torch.dtype, groups: int) -> Tensor:
        """0 where a position is seen, else -inf: [n, 1, r Q, P + S]."""
        if (window, dtype) not in self._masks:
            queries, keys = self._queries, self._keys
            seen = queries.row[:, :, None] == keys.row[:, None, :]
            if self._causal:
                seen &= queries.place[:, :, None] >= keys.place[:, None, :]
            if window is not None:
                seen &= queries.place[:, :, None] < (keys.place + window)[:, None, :]
            # Of what sees nothing neither result nor gradient is a number.
            seen |= (queries.row < 0)[:, :, None]
            if self._prefix is not None:
                seen = torch.cat([self._seen_in_front(window), seen], dim=2)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
            self._masks[window, dtype] = mask.repeat(1, groups, 1)[:, None]
        return self._masks[window, dtype]

    def _seen_in_front(self, window: int | None) -> Tensor:
        """[n, Q, P]; nobody's positions see it, too, so that there is something that they see."""
        assert self._prefix is not None
        seen = (self._prefix >= 0)[:, None]
        if window is not None:
            places = torch.arange(self._prefix.shape[1], device=seen.device)
            return seen & (self._queries.place[:, :, None] - places < window)
        return seen.expand(-1, self._queries.row.shape[1], -1)


# How packed rows attend: on a CPU, on an accelerator.
Attending: TypeAlias = Rows | Spans


def _under_one_another(heads: Tensor, groups: int) -> Tensor:
    """Of [n, h, Q, ...] the r heads that share keys as one: [n, h', r Q, ...]. No key is copied then."""
    return heads.reshape(heads.shape[0], -1, groups * heads.shape[2], heads.shape[3])


def _in_bins(packed: Tensor, bins: int) -> Tensor:
    """Of [1, h, n S, d]: [n, h, S, d]."""
    heads, width = packed.shape[1], packed.shape[3]
    return packed.reshape(heads, bins, -1, width).transpose(0, 1)


def _multiple(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
