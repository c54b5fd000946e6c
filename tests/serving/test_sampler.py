"""Tokens of many rows at once: what transformers' own processors give row by row, and a fair draw."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.sampler import Sampler

from .picking import pick

VOCABULARY = 61
ENDS = frozenset([1, 7])
ROWS = 64


@pytest.mark.parametrize("seed", range(25))
def test_mixed_rows_get_what_processors_give_each(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,600 rows with every mixture of parameters: the same tokens are left, with the same scores."""
    rng = random.Random(seed)
    samplers = [_sampler(rng) for _ in range(ROWS)]
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(ROWS, VOCABULARY, generator=generator)
    logits[::3] = (2 * logits[::3]).round() / 2  # ties
    searchsorted = torch.searchsorted
    left: dict[int, torch.Tensor] = {}

    def spy(sums: torch.Tensor, values: torch.Tensor, **options: Any) -> torch.Tensor:
        drawing = [each for each in samplers if each.parameters.samples]
        left.update((id(row), own) for row, own in zip(drawing, sums, strict=True))
        return searchsorted(sums, values, **options)

    monkeypatch.setattr(torch, "searchsorted", spy)
    before = [list(each.seen) for each in samplers]
    for row, token in enumerate(pick(logits, samplers)):
        each = samplers[row]
        expected = _processed(logits[row], each.parameters, before[row], len(before[row]) - 5)
        if each.parameters.samples:
            shares = left[id(each)].diff(prepend=left[id(each)].new_zeros(1))
            assert torch.allclose(shares, expected.double().softmax(-1), atol=1e-6)
        else:
            assert token == int(expected.argmax())


def test_a_seeded_row_is_the_same_alone_and_in_company() -> None:
    rng = random.Random(0)
    logits = torch.randn(40, ROWS, VOCABULARY, generator=torch.Generator().manual_seed(1))
    together = [_sampler(rng) for _ in range(ROWS)]
    alone = deepcopy(together)
    tokens = [pick(step, together) for step in logits]
    # In company they come and go: every other row only, in another order.
    for row in range(0, ROWS, 2):
        assert [pick(step[row : row + 1], [alone[row]])[0] for step in logits] == [
            step[row] for step in tokens
        ]


def test_a_row_draws_a_number_a_step_whatever_it_samples_from() -> None:
    """So a seed stands for the same draws with other parameters, as users who compare them expect."""
    flat = torch.zeros(1, VOCABULARY)
    for request in ({}, {"top_k": 5}, {"temperature": 0.3}):
        row = Sampler(_parameters(decoding_method="SAMPLING", seed=5, **request), (), ENDS)
        pick(flat, [row])
        second = torch.Generator().manual_seed(5)
        torch.rand((), generator=second, dtype=torch.float64)
        assert row.draw() == float(torch.rand((), generator=second, dtype=torch.float64))


def test_the_likeliest_is_left_whatever_is_asked() -> None:
    for request in ({"top_p": 1e-9}, {"top_k": 1}, {"typical_p": 1e-9}, {"temperature": 1e-3}):
        row = Sampler(_parameters(decoding_method="SAMPLING", seed=1, **request), (), ENDS)
        logits = torch.full((1, VOCABULARY), -5.0)
        logits[0, 9] = 5.0
        assert pick(logits, [row]) == [9]


def test_more_is_asked_for_than_there_are_tokens() -> None:
    row = Sampler(_parameters(decoding_method="SAMPLING", seed=1, top_k=VOCABULARY + 9), (), ENDS)
    assert 0 <= pick(torch.zeros(1, VOCABULARY), [row])[0] < VOCABULARY


def test_logits_stay_as_they_are() -> None:
    """Log-probabilities and ranks are told of them."""
    rng = random.Random(3)
    logits = torch.randn(ROWS, VOCABULARY)
    copy = logits.clone()
    pick(logits, [_sampler(rng) for _ in range(ROWS)])
    assert torch.equal(logits, copy)


# ---- helpers ----


def _parameters(**request: Any) -> GenerationParameters:
    return GenerationParameters.from_request(request, request.pop("decay", None), {})


def _sampler(rng: random.Random) -> Sampler:
    """A row that has seen a few tokens and picked five."""
    request: dict[str, Any] = {
        "decoding_method": rng.choice(["GREEDY", "SAMPLING", "SAMPLING"]),
        "seed": rng.randrange(2**40),
        "max_new_tokens": 50,
        "min_new_tokens": rng.choice([0, 0, 3, 9]),
        "temperature": rng.choice([1.0, 0.4, 2.5]),
        "top_k": rng.choice([0, 0, 1, 4, 30]),
        "top_p": rng.choice([0.0, 1.0, 0.2, 0.9]),
        "typical_p": rng.choice([0.0, 1.0, 0.3, 0.95]),
        "repetition_penalty": rng.choice([0.0, 1.0, 1.3, 0.7]),
        "decay": rng.choice([None, (2, 1.4), (9, 1.4)]),
    }
    row = Sampler(_parameters(**request), [rng.randrange(VOCABULARY) for _ in range(rng.randrange(8))], ENDS)
    row.seen += [rng.randrange(VOCABULARY) for _ in range(5)]
    return row


def _processed(
    logits: torch.Tensor, parameters: GenerationParameters, seen: list[int], given: int
) -> torch.Tensor:
    """The scores of one row the slow way, with transformers' classes."""
    ids, scores = torch.tensor([seen], dtype=torch.long), logits[None].clone()
    picked = len(seen) - given
    if parameters.repetition_penalty not in (0, 1):
        scores = RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty)(ids, scores)
    decay = parameters.exponential_decay
    if decay and picked > decay.start:
        for end in ENDS:
            scores[0, end] += scores[0, end].abs() * (decay.factor ** (picked - decay.start) - 1)
    if picked < parameters.min_new_tokens:
        scores[0, list(ENDS)] = -torch.inf
    if parameters.samples:
        warpers: list[Any] = [TemperatureLogitsWarper(parameters.temperature)]
        warpers += [TopKLogitsWarper(parameters.top_k)] if parameters.top_k else []
        warpers += [TopPLogitsWarper(parameters.top_p)] if 0 < parameters.top_p < 1 else []
        warpers += [TypicalLogitsWarper(parameters.typical_p)] if 0 < parameters.typical_p < 1 else []
        for warper in warpers:
            scores = warper(ids, scores)
    return scores[0]
