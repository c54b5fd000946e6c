"""Attention of rows that stand packed one behind another in one row: of each to itself, and to a prefix.

For CPUs, where calls are cheap and work isn't; accelerators have `spans`. Knows nothing of models, which are
told of it in `packing`.

Letters: B rows of a group, N packed positions, T positions of a row, P positions of a prefix, h heads of
queries, h' of keys and values, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

_PADDING = 1.1  # rows of a group may be so much longer than its shortest
_ALWAYS = 8  # and always by so many positions
# More scores than that aren't kept for the gradient; scaled_dot_product_attention computes them again.
_MOST_SCORES = 2**24


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a model says of one attention: a factor, a bias [1, h, T, T], a window."""

    scaling: float
    position_bias: Tensor | None = None
    sliding_window: int | None = None


class Rows:
    """Which rows attend to which, and how they are gathered to do so.

    Row i has `keys[i]` positions, in front of which stand those of prefix `prefixes[i]`, `prefix_lengths`
    long; where attention is causal it asks with the last `queries[i]` of them. Rows of much the same length
    behind prefixes of one form a group, and are padded for attention alone, a few percent of all work.

    A packed tensor may be longer than its rows: what stands behind them attends to nothing, and gets zeros.
    """

    def __init__(
        self,
        queries: Sequence[int],
        keys: Sequence[int],
        causal: bool,
        prefixes: Sequence[int] | None = None,
        prefix_lengths: Sequence[int] = (0,),
    ) -> None:
        if prefixes is None:
            prefixes, prefix_lengths = [0] * len(queries), (0,)
        in_front = [prefix_lengths[prefix] for prefix in prefixes]
        begins = [0, *accumulate(prefix_lengths)]
        starts = [0, *accumulate(queries)], [0, *accumulate(keys)]
        self.groups: list[_Group] = []
        back = torch.empty(sum(queries), dtype=torch.long)
        base = 0
        for rows in _groups(queries, keys, in_front):
            # Those of one prefix side by side, so that its gradient is summed at once.
            rows.sort(key=prefixes.__getitem__)
            asking = _Gathered(
                [starts[0][row] for row in rows], [queries[row] for row in rows], starts[0][-1]
            )
            asked = _Gathered([starts[1][row] for row in rows], [keys[row] for row in rows], starts[1][-1])
            prefix = _Prefix(in_front[rows[0]], [begins[prefixes[row]] for row in rows], begins[-1])
            self.groups.append(_Group(asking, asked, prefix, causal))
            for number, row in enumerate(rows):
                begin = base + number * asking.longest
                back[starts[0][row] : starts[0][row + 1]] = torch.arange(begin, begin + queries[row])
            base += len(rows) * asking.longest
        self._back = back
        self._complete = all(queries)
        self._asking, self._asked = len(back), starts[1][-1]
        self._pairs = sum(group.pairs for group in self.groups)
        self._in_order = bool((back == torch.arange(len(back))).all()) and base == len(back)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Of query [1, h, N, d], key and value [1, h', N, d]: [1, N, h, d].

        `prefix` has the keys and values of all prefixes one behind another, [1, h', P, d].
        """
        if query.shape[1] * self._pairs <= _MOST_SCORES:
            return _Attention.apply(query, key, value, self, scoring, *(prefix or ()))  # type: ignore[no-any-return, no-untyped-call]
        return self.attend_fused(query, key, value, scoring, prefix)

    def attend_fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """As `attend`, by torch's scaled_dot_product_attention: where scores would be too many to keep."""
        (flat_query,) = _flat(query)
        asked = _asked(key, value, prefix or ())
        answers = []
        for group in self.groups:
            queries, (keys, values) = group.queries.take(flat_query), map(group.take_keys, asked)
            answer = _fused_attention(queries, keys, values, group, scoring)
            answers.append(answer.flatten(0, 1))
        together = torch.cat(answers) if len(answers) > 1 else answers[0]
        together = together if self._in_order else together.index_select(0, self._back)
        behind = flat_query.shape[0] - self._asking
        return torch.nn.functional.pad(together, (0, 0, 0, 0, 0, behind))[None] if behind else together[None]

    def writes_all(self, queries: int, keys: int) -> bool:
        """Whether the rows are all of packed tensors of so many positions, and each of them asks."""
        return self._complete and (queries, keys) == (self._asking, self._asked)


class _Attention(torch.autograd.Function):
    """Attention of packed rows by the formula, for CPUs; its gradient by hand.

    scaled_dot_product_attention isn't faster there, and in bfloat16 four times slower. By hand, a row's
    gradient is written to where it belongs instead of being added to zeros as long as all rows, and what
    needs no gradient, such as the text's keys in a first layer, isn't computed.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scoring: Scoring, *prefix: Tensor
    ) -> Tensor:
        (flat_query,) = _flat(query)
        asked = _asked(key, value, prefix)
        blank = (
            flat_query.new_empty if rows.writes_all(query.shape[2], key.shape[2]) else flat_query.new_zeros
        )
        answer = blank(*flat_query.shape[:2], value.shape[3])
        weights = []
        for group in rows.groups:
            queries, keys, values = _of_group(group, flat_query, *asked)
            scores = torch.matmul(queries, keys.transpose(2, 3))
            if scoring.scaling != 1.0:
                scores.mul_(scoring.scaling)
            by_head = scores.view(len(keys), query.shape[1], group.queries.longest, -1)
            for added in (group.mask(scoring.sliding_window, scores.dtype), group.bias(scoring)):
                if added is not None:
                    by_head.add_(added)
            weights.append(scores.softmax(dim=-1))
            group.queries.put(answer, (weights[-1] @ values).view(*by_head.shape[:3], -1))
        ctx.save_for_backward(query, *asked, *weights)
        ctx.rows, ctx.scoring, ctx.text = rows, scoring, key.shape[2]
        return answer[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        query, *rest = ctx.saved_tensors
        asked, weights = rest[:2], rest[2:]
        rows, scaling = ctx.rows, ctx.scoring.scaling
        (flat_query,) = _flat(query)
        wanted = ctx.needs_input_grad
        # Every position is of one row, and written once, unless its row asks nothing.
        blank = torch.empty_like if rows.writes_all(query.shape[2], ctx.text) else torch.zeros_like
        in_front = [part[:, :, : part.shape[2] - ctx.text] for part in asked]
        behind = _flat(*(part[:, :, -ctx.text :] for part in asked))
        of_text = [
            blank(tensor) if wants else None
            for tensor, wants in zip((flat_query, *behind), wanted, strict=False)
        ]
        of_prefix = [
            torch.zeros_like(tensor) if wants else None
            for tensor, wants in zip(in_front, wanted[5:], strict=False)
        ]
        for group, weight in zip(rows.groups, weights, strict=True):
            queries, keys, values = _of_group(group, flat_query, *asked)
            gradient = group.queries.take(gradients[0][0], 0.0).reshape(*queries.shape[:3], -1)
            through = torch.ops.aten._softmax_backward_data(
                gradient @ values.transpose(2, 3), weight, -1, weight.dtype
            )
            if scaling != 1.0:
                through.mul_(scaling)
            if of_text[0] is not None:
                group.queries.put(
                    of_text[0],
                    (through @ keys).view(len(keys), flat_query.shape[1], group.queries.longest, -1),
                )
            known = keys.shape[2] - group.keys.longest
            for part, (left, right) in enumerate(((through, queries), (weight, gradient))):
                text, front = of_text[1 + part], of_prefix[part] if of_prefix else None
                product = (left if text is not None else left[..., :known]).transpose(2, 3) @ right
                if front is not None:
                    group.prefix.add(front, product[:, :, :known])
                if text is not None:
                    group.keys.put(text, product[:, :, known:])
        unpacked = [None if tensor is None else tensor.transpose(0, 1)[None] for tensor in of_text]
        return (*unpacked, None, None, *of_prefix)


class _Gathered:
    """Rows of a packed tensor of N positions as a padded one. Padding is whatever stands behind a row."""

    def __init__(self, starts: Sequence[int], lengths: Sequence[int], positions: int) -> None:
        self.lengths = lengths
        self.longest = max(lengths)
        self._starts = starts
        # Rows without padding one behind another are a view.
        whole = range(starts[0], starts[0] + self.longest * len(starts), self.longest)
        self._is_view = list(whole) == list(starts) and min(lengths) == self.longest
        steps = torch.arange(self.longest)
        inside = steps < torch.tensor(lengths)[:, None]
        self._inside = inside.flatten()
        self.index = (torch.tensor(starts)[:, None] + steps).clamp(max=positions - 1).flatten()

    def take(self, packed: Tensor, padding: float | None = None) -> Tensor:
        """Of [N, h, d]: [B, h, T, d], with `padding` behind each row, or else what happens to be there."""
        if self._is_view:
            return self._viewed(packed)
        rows = packed.index_select(0, self.index)
        if padding is not None and min(self.lengths) < self.longest:
            rows[~self._inside] = padding
        return rows.view(len(self.lengths), self.longest, *packed.shape[1:]).transpose(1, 2)

    def put(self, packed: Tensor, padded: Tensor) -> None:
        """The other way: writes [B, h, T, d] into [N, h, d], without the padding."""
        if self._is_view:
            self._viewed(packed).copy_(padded)
            return
        for start, length, row in zip(self._starts, self.lengths, padded, strict=True):
            packed[start : start + length] = row[:, :length].transpose(0, 1)

    def _viewed(self, packed: Tensor) -> Tensor:
        begin, count = self._starts[0], len(self._starts)
        rows = packed[begin : begin + count * self.longest]
        return rows.view(count, self.longest, *packed.shape[1:]).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """What stands in front of the rows of a group: so many positions, which begin at `starts` among the
    `positions` ΣP of all prefixes."""

    length: int
    starts: Sequence[int]
    positions: int

    def add(self, gradient: Tensor, of_rows: Tensor) -> None:
        """To the `gradient` [1, h, ΣP, d] of all prefixes that `of_rows` [B, h, P, d]."""
        begin = 0
        for start, rows in groupby(self.starts):
            end = begin + sum(1 for _ in rows)
            gradient[:, :, start : start + self.length] += of_rows[begin:end].sum(dim=0)
            begin = end


class _Group:
    """Rows that attend together: B rows, padded to one length."""

    def __init__(self, queries: _Gathered, keys: _Gathered, prefix: _Prefix, causal: bool) -> None:
        self.queries, self.keys, self.prefix = queries, keys, prefix
        self._causal = causal
        self._indices: dict[tuple[int, int], Tensor] = {}
        self._masks: dict[tuple[int | None, torch.dtype], Tensor | None] = {}

    def take_keys(self, asked: Tensor) -> Tensor:
        """[B, h', P + T, d] of [1, h', ΣP + N, d], those of all prefixes and behind them the packed ones."""
        if not self.prefix.length:
            return self.keys.take(asked[0, :, self.prefix.positions :].transpose(0, 1))
        heads, positions, width = asked.shape[1:]
        if (heads, positions) not in self._indices:
            self._indices[heads, positions] = self._index(heads, positions)
        # Head by head, so that nothing has to be laid out anew for a product.
        rows = asked.view(-1, width).index_select(0, self._indices[heads, positions])
        return rows.view(len(self.keys.lengths), heads, -1, width)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores [B, h, T, P + T]: 0 or -inf; None where all may see all."""
        if (window, dtype) not in self._masks:
            seen = self._seen(window)
            mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)
            self._masks[window, dtype] = None if seen.all() else mask
        return self._masks[window, dtype]

    @property
    def pairs(self) -> int:
        """Pairs of positions that attend, padding included."""
        return len(self.keys.lengths) * self.queries.longest * (self.prefix.length + self.keys.longest)

    def bias(self, scoring: Scoring) -> Tensor | None:
        """What a model adds to the scores for the distance of two positions, [1, h, T, T]."""
        if scoring.position_bias is None or scoring.position_bias.shape[-1] == 1:
            # A single number is added to all scores alike, and changes no weight.
            return None
        return scoring.position_bias[:, :, : self.queries.longest, : self.prefix.length + self.keys.longest]

    def _index(self, heads: int, positions: int) -> Tensor:
        """Where `take_keys` finds its rows among those of all heads, [B h' (P + T)]."""
        starts = torch.tensor(self.prefix.starts)[:, None]
        own = self.keys.index.view(len(starts), -1) + self.prefix.positions
        rows = torch.cat([starts + torch.arange(self.prefix.length), own], dim=1)
        return (rows[:, None] + positions * torch.arange(heads)[:, None]).flatten()

    def _seen(self, window: int | None) -> Tensor:
        keys = torch.arange(self.prefix.length + self.keys.longest)
        if not self._causal:
            ends = self.prefix.length + torch.tensor(self.keys.lengths)
            return (keys < ends[:, None])[:, None, None]
        # Padding stands behind every row, where no position of the row itself looks. It asks from no farther
        # than the last key, which it sees: of what sees nothing, neither result nor gradient is a number.
        before = [had - asks for had, asks in zip(self.keys.lengths, self.queries.lengths, strict=True)]
        before = before[:1] if len(set(before)) == 1 else before
        steps = torch.arange(self.queries.longest)
        places = torch.tensor(before)[:, None] + steps
        queries = self.prefix.length + places.clamp(max=self.keys.longest - 1)
        distance = queries[:, None, :, None] - keys
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _groups(queries: Sequence[int], keys: Sequence[int], in_front: Sequence[int]) -> list[list[int]]:
    """Rows by the length of what is in front of them, and by their own, longest first."""
    asking = [row for row, positions in enumerate(queries) if positions]
    order = sorted(asking, key=lambda row: (in_front[row], -keys[row], -queries[row]))
    groups: list[list[int]] = []
    for row in order:
        first = groups[-1][0] if groups else row
        fits = keys[first] <= max(_PADDING * keys[row], keys[row] + _ALWAYS)
        if not groups or in_front[first] != in_front[row] or not fits:
            groups.append([])
        groups[-1].append(row)
    return groups


def _flat(*tensors: Tensor) -> list[Tensor]:
    """Of each [1, h, N, d]: [N, h, d]."""
    return [tensor[0].transpose(0, 1) for tensor in tensors]


def _asked(key: Tensor, value: Tensor, prefix: Sequence[Tensor]) -> list[Tensor]:
    """Keys and values [1, h', N, d] behind those of all prefixes, [1, h', ΣP + N, d]."""
    if not prefix:
        return [key, value]
    return [torch.cat(pair, dim=2) for pair in zip(prefix, (key, value), strict=True)]


def _of_group(
    group: _Group, query: Tensor, asked_keys: Tensor, asked_values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, h', r T, d] of packed ones [N, h, d], and keys and values [B, h', P + T, d] as
    `_Group.take_keys` has them.

    The r queries that share a head of keys stand one under another, so that no key is copied.
    """
    keys, values = group.take_keys(asked_keys), group.take_keys(asked_values)
    queries = group.queries.take(query)
    return queries.reshape(len(queries), keys.shape[1], -1, queries.shape[3]), keys, values


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, group: _Group, scoring: Scoring) -> Tensor:
    """Attention of query [B, h, T, d] to key and value [B, h', P + T, d]: [B, T, h, d]."""
    mask, bias = group.mask(scoring.sliding_window, query.dtype), group.bias(scoring)
    if bias is not None:
        mask = bias if mask is None else mask + bias
    repeated = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeated, dim=1) for tensor in (key, value))
    answer = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scoring.scaling
    )
    return answer.transpose(1, 2)
