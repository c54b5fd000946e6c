"""Attention of bins of rows, against the attention of each row by its formula, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from caikit_pt.base_model.layers import spans
from caikit_pt.base_model.layers.attention import Scoring
from caikit_pt.base_model.layers.spans import Bins, Places, Spans, binned

HEADS, KV_HEADS, WIDTH = 4, 2, 6
LENGTHS = (7, 1, 12, 3, 3, 9, 2, 14, 5)
PREFIXES = (5, 0, 11)


@dataclass(frozen=True)
class Case:
    """Rows of `lengths`; `other`: of what is asked, where rows look at others than themselves. `prefixes`:
    the prefix of each row."""

    lengths: tuple[int, ...] = LENGTHS
    causal: bool = True
    window: int | None = None
    prefixes: tuple[int, ...] | None = None
    other: tuple[int, ...] | None = None
    bias: bool = False


CASES = {
    "causal": Case(),
    "one row": Case((11,)),
    "window": Case(window=4),
    "one prefix": Case(prefixes=(0,) * 9),
    "prefixes": Case(prefixes=(0, 0, 0, 1, 1, 2, 2, 2, 2)),
    "prefixes, window": Case(prefixes=(0, 0, 2, 2, 2, 2, 1, 1, 1), window=6),
    "both directions": Case(causal=False),
    "another side": Case(causal=False, other=(3, 4, 2, 8, 1, 1, 13, 2, 2)),
    "bias": Case(bias=True),
    "bias, both directions": Case(causal=False, bias=True),
}


@pytest.fixture(autouse=True, params=[8, 24, 1024])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins of few rows, of several, and one of all."""
    monkeypatch.setattr(spans, "_SIZE", request.param)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_row_is_as_if_alone(case: Case) -> None:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    other = case.other or case.lengths
    queries = [noise(HEADS, length, WIDTH) for length in case.lengths]
    keys, values = ([noise(KV_HEADS, length, WIDTH) for length in other] for _ in range(2))
    fronts = [(noise(KV_HEADS, length, WIDTH), noise(KV_HEADS, length, WIDTH)) for length in PREFIXES]
    bias = noise(1, HEADS, 40, 40).detach() if case.bias else None
    scoring = Scoring(0.3, bias, case.window)
    rows = range(len(queries))
    front = [fronts[case.prefixes[row]] if case.prefixes else None for row in rows]
    expected = [
        _alone(queries[row], keys[row], values[row], scoring, case.causal, front[row]) for row in rows
    ]
    seen = _in_bins(case, queries, keys, values, scoring, fronts)
    leaves = [
        *queries,
        *keys,
        *values,
        *((part for pair in fronts for part in pair) if case.prefixes else ()),
    ]
    weights = [noise(*each.shape).detach() for each in expected]
    gradients = [_gradients(answers, weights, leaves) for answers in (expected, seen)]
    for a, b in zip([*expected, *gradients[0]], [*seen, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_rows_of_a_bin_are_whole_and_of_one_kind() -> None:
    kinds = (0, 0, 0, 1, 1, 1, 1, 0, 0)
    found = binned([LENGTHS], kinds, prefix=5)
    ends = [start + length for start, length in zip(found.starts[0], LENGTHS, strict=True)]
    for bin, start, end in zip(found.bins, found.starts[0], ends, strict=True):
        assert bin * found.sizes[0] <= start < end <= (bin + 1) * found.sizes[0]
    assert all(one <= other for one, other in zip(ends, found.starts[0][1:], strict=False))
    assert all(
        len({kind for kind, own in zip(kinds, found.bins, strict=True) if own == bin}) == 1
        for bin in found.bins
    )
    assert (found.sizes[0] + 5) % 8 == 0, "so that no kernel has to pad a mask"


def test_two_sides_of_a_row_are_in_bins_of_one_number() -> None:
    found = binned([LENGTHS, LENGTHS[::-1]])
    for side, lengths in enumerate((LENGTHS, LENGTHS[::-1])):
        whole = found.filled(side, [torch.full((length,), row) for row, length in enumerate(lengths)], -1)
        assert whole.shape == (found.count, found.sizes[side])
        for row, length in enumerate(lengths):
            assert (whole == row).sum() == (whole[found.bins[row]] == row).sum() == length


def _gradients(
    answers: Sequence[Tensor], weights: Sequence[Tensor], leaves: Sequence[Tensor]
) -> list[Tensor]:
    total = torch.stack([(each * weight).sum() for each, weight in zip(answers, weights, strict=True)]).sum()
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if own is None else own for leaf, own in zip(leaves, found, strict=True)]


def _alone(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scoring: Scoring,
    causal: bool,
    front: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """[T, h, d] of query [h, T, d], key and value [h', S, d]."""
    before = 0
    if front is not None:
        before = front[0].shape[1]
        key, value = torch.cat([front[0], key], 1), torch.cat([front[1], value], 1)
    key, value = (part.repeat_interleave(HEADS // KV_HEADS, 0) for part in (key, value))
    scores = query @ key.transpose(1, 2) * scoring.scaling
    if scoring.position_bias is not None:
        scores = scores + scoring.position_bias[0, :, : query.shape[1], : key.shape[1]]
    distance = (before + torch.arange(query.shape[1]))[:, None] - torch.arange(key.shape[1])
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        hidden |= distance < 0
    if scoring.sliding_window is not None:
        hidden |= distance >= scoring.sliding_window
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(0, 1)


def _in_bins(
    case: Case,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    scoring: Scoring,
    fronts: Sequence[tuple[Tensor, Tensor]],
) -> list[Tensor]:
    """The same by `Spans`, [T, h, d] of each row."""
    longest = max(PREFIXES) if case.prefixes else 0
    sides = [list(case.lengths), list(case.other or case.lengths)]
    found = binned(sides, case.prefixes, longest)
    before = [PREFIXES[prefix] for prefix in case.prefixes or ()] or [0] * len(queries)
    asking, asked = (_places(found, side, lengths, before) for side, lengths in enumerate(sides))
    prefix = None
    if case.prefixes:
        begins = [sum(PREFIXES[:number]) for number in range(len(PREFIXES))]
        prefix = torch.full((found.count, longest), -1)
        for bin, own in zip(found.bins, case.prefixes, strict=True):
            prefix[bin, : PREFIXES[own]] = torch.arange(begins[own], begins[own] + PREFIXES[own])
    packed = [_packed(found, side, rows) for side, rows in ((0, queries), (1, keys), (1, values))]
    together = [torch.cat(parts, 1)[None] for parts in zip(*fronts, strict=True)]
    cells = (together[0], together[1]) if case.prefixes else None
    answer = Spans(asking, asked, case.causal, prefix).attend(
        packed[0], packed[1], packed[2], scoring, cells
    )[0]
    return [
        answer[start : start + length] for start, length in zip(found.starts[0], case.lengths, strict=True)
    ]


def _places(found: Bins, side: int, lengths: Sequence[int], before: Sequence[int]) -> Places:
    own = [torch.arange(begin, begin + length) for begin, length in zip(before, lengths, strict=True)]
    return Places(
        found.filled(side, [torch.full_like(row, number) for number, row in enumerate(own)], -1),
        found.filled(side, own, 0),
    )


def _packed(found: Bins, side: int, rows: Sequence[Tensor]) -> Tensor:
    """[1, h, N, d] of rows [h, T, d]; nobody's positions hold noise."""
    whole = torch.randn(rows[0].shape[0], found.count * found.sizes[side], WIDTH, dtype=torch.float64)
    for start, row in zip(found.starts[side], rows, strict=True):
        own = torch.arange(start, start + row.shape[1])
        whole = whole.index_copy(1, own, row)
    return whole[None]


def test_bins_are_as_wide_as_the_fullest_of_a_side_needs(size: None) -> None:
    """A decoder beside long texts had as many positions as they."""
    found = binned([[400] * 6, [10] * 6])
    assert found.sizes[0] >= 400
    assert found.sizes[1] <= 24 * max(found.bins.count(bin) for bin in found.bins)
