"""Attention between packed rows, against every query looking at each key that it may see, one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
import torch

from caikit_pt.base_model.layers import attention
from caikit_pt.base_model.layers.attention import Rows, Scoring

HEADS, SHARED_HEADS, WIDTH = 4, 2, 8
PREFIXES = (0, 3, 12, 12)
TOLERANCE = 1e-12


SCALED = Scoring(0.3)


@dataclass(frozen=True)
class Case:
    """Rows: how many positions of each ask, how many there are, and what stands in front."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool = True
    prefixes: tuple[int, ...] | None = None
    scoring: Scoring = SCALED


LENGTHS = (5, 30, 1, 31, 29, 6, 14)
CASES = {
    "causal": Case(LENGTHS, LENGTHS),
    "one row": Case((7,), (7,)),
    "in order": Case((9, 9, 9), (9, 9, 9)),
    "window": Case(LENGTHS, LENGTHS, scoring=Scoring(0.3, sliding_window=4)),
    "bias": Case(LENGTHS, LENGTHS, scoring=Scoring(0.3, torch.randn(1, HEADS, 31, 31, dtype=torch.float64))),
    "no bias": Case(LENGTHS, LENGTHS, scoring=Scoring(0.3, torch.zeros(1, 1, 1, 1, dtype=torch.float64))),
    "prefixes": Case(LENGTHS, LENGTHS, prefixes=(0, 1, 2, 0, 1, 2, 2)),
    "prefixes, window": Case(
        LENGTHS, LENGTHS, prefixes=(0, 1, 2, 0, 1, 2, 2), scoring=Scoring(0.3, sliding_window=6)
    ),
    "prefixes of one length": Case(LENGTHS, LENGTHS, prefixes=(2, 3, 3, 2, 3, 2, 2)),
    "few ask": Case((1, 3, 1, 12, 1, 6, 2), LENGTHS, prefixes=(0, 1, 2, 1, 1, 2, 2)),
    "few ask, window": Case(
        (1, 3, 1, 25, 1, 6, 2),
        LENGTHS,
        prefixes=(0, 1, 2, 1, 1, 2, 2),
        scoring=Scoring(0.3, sliding_window=4),
    ),
    "both directions": Case(LENGTHS, LENGTHS, causal=False),
    "across": Case((2, 1, 4, 9, 3, 1, 1), LENGTHS, causal=False),
    "across, more ask": Case((2, 40, 4, 9, 3, 1, 1), LENGTHS, causal=False),
}


@pytest.mark.parametrize(
    ("name", "fused"),
    [(name, fused) for name in CASES for fused in (False, True)],
)
def test_rows_attend_as_each_of_them_alone(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    if fused:
        monkeypatch.setattr(attention.Rows, "attend", attention.Rows.attend_fused)
    rows = Rows(case.queries, case.keys, case.causal, case.prefixes, PREFIXES)
    ours, obvious = _tensors(case), _tensors(case)
    prefix = None if case.prefixes is None else _together(ours)
    answer = rows.attend(ours.query, ours.key, ours.value, case.scoring, prefix)[0]
    expected = _obvious(case, obvious)
    torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)
    weights = torch.randn(answer.shape, dtype=torch.float64)
    torch.autograd.backward([answer, expected], [weights, weights])
    for tensor, reference in zip(ours.all(), obvious.all(), strict=True):
        if reference.grad is not None:
            torch.testing.assert_close(tensor.grad, reference.grad, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_little_is_padded(name: str) -> None:
    """A tenth of a row or a few positions; every row in one group, behind prefixes of one length."""
    case = CASES[name]
    rows = Rows(case.queries, case.keys, case.causal, case.prefixes, PREFIXES)
    seen = [length for group in rows.groups for length in group.keys.lengths]
    assert sorted(seen) == sorted(case.keys)
    for group in rows.groups:
        assert group.keys.longest <= max(1.1 * min(group.keys.lengths), min(group.keys.lengths) + 8)
    assert len(rows.groups) < len(case.keys) or len(case.keys) == 1
    alike = Rows(case.queries, case.keys, case.causal)
    if case.prefixes and len({PREFIXES[prefix] for prefix in case.prefixes}) == 1:
        assert len(rows.groups) == len(alike.groups), "whichever prefix it is"


def test_a_short_row_beside_a_long_one_is_no_concern_of_either() -> None:
    """What padding looks at is nothing, and nothing times zero was no number: gradients were lost."""
    case = replace(CASES["few ask, window"], queries=(14, 1), keys=(17, 17), prefixes=(1, 1))
    tensors = _tensors(case)
    rows = Rows(case.queries, case.keys, True, case.prefixes, PREFIXES)
    assert len(rows.groups) == 1
    answer = rows.attend(tensors.query, tensors.key, tensors.value, case.scoring, _together(tensors))
    answer.sum().backward()  # type: ignore[no-untyped-call]
    assert tensors.key.grad is not None
    assert tensors.key.grad.isfinite().all()


# ---- helpers ----


@dataclass(frozen=True)
class _Tensors:
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    prefixes: list[tuple[torch.Tensor, torch.Tensor]]

    def all(self) -> list[torch.Tensor]:
        return [self.query, self.key, self.value, *(part for pair in self.prefixes for part in pair)]


def _together(tensors: _Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all prefixes, one behind another."""
    keys, values = zip(*tensors.prefixes, strict=True)
    return torch.cat(keys, 2), torch.cat(values, 2)


def _tensors(case: Case) -> _Tensors:
    generator = torch.Generator().manual_seed(4)

    def draw(heads: int, length: int) -> torch.Tensor:
        shape = (1, heads, length, WIDTH)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    asking, asked = sum(case.queries), sum(case.keys)
    return _Tensors(
        draw(HEADS, asking),
        draw(SHARED_HEADS, asked),
        draw(SHARED_HEADS, asked),
        [(draw(SHARED_HEADS, length), draw(SHARED_HEADS, length)) for length in PREFIXES],
    )


def _obvious(case: Case, tensors: _Tensors) -> torch.Tensor:
    """[N, h, d], query by query, head by head."""
    asking, asked = [0, *accumulate(case.queries)], [0, *accumulate(case.keys)]
    answers = []
    for row, (queries, keys) in enumerate(zip(case.queries, case.keys, strict=True)):
        key = tensors.key[0, :, asked[row] : asked[row + 1]]
        value = tensors.value[0, :, asked[row] : asked[row + 1]]
        before = 0
        if case.prefixes is not None:
            first_key, first_value = tensors.prefixes[case.prefixes[row]]
            key, value = torch.cat([first_key[0], key], 1), torch.cat([first_value[0], value], 1)
            before = PREFIXES[case.prefixes[row]]
        for number in range(queries):
            place = before + keys - queries + number
            seen = [
                other
                for other in range(before + keys)
                if not case.causal
                or (other <= place and place - other < (case.scoring.sliding_window or math.inf))
            ]
            for head in range(HEADS):
                shared = head // (HEADS // SHARED_HEADS)
                query = tensors.query[0, head, asking[row] + number]
                scores = case.scoring.scaling * (key[shared, seen] @ query)
                if case.scoring.position_bias is not None and case.scoring.position_bias.numel() > 1:
                    scores = scores + case.scoring.position_bias[0, head, number, seen]
                answers.append(scores.softmax(0) @ value[shared, seen])
    return torch.stack(answers).view(sum(case.queries), HEADS, WIDTH)
