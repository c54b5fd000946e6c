"""What requests want of a pass: nothing that is told depends on who else is told something."""

from __future__ import annotations

import math

import pytest
import torch

from caikit_pt.base_model.layers.buckets import bucket, room
from caikit_pt.base_model.layers.parcel import Parcel, fetched
from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.sampler import Sampler
from caikit_pt.serving.sampling import Sampling
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.wishes import Wishes, worths_of

from .test_engine import alone, finish, request

CPU = torch.device("cpu")


def test_what_a_token_is_worth_is_told_to_the_bit_alone_and_in_company() -> None:
    logits = 5 * torch.randn(23, 1037, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = logits[:, 9]  # ties are no better
    tokens = torch.arange(23) * 3
    logprobs, ranks, values, ids = worths_of(logits, tokens, 2)
    assert all(map(torch.equal, worths_of(logits, tokens, 0), (logprobs, ranks)))
    for row, token in enumerate(tokens.tolist()):
        assert values[row].tolist() == logits[row].log_softmax(dim=-1).topk(2).values.tolist()
        assert logits[row, ids[row]].tolist() == logits[row].topk(2).values.tolist()
        assert float(logprobs[row]) == float(logits[row].log_softmax(dim=-1)[token])
        assert int(ranks[row]) == int((logits[row] > logits[row, token]).sum()) + 1


def test_a_number_that_is_prepared_is_not_drawn() -> None:
    """A step that fails is taken again, with the same numbers."""
    parameters = GenerationParameters.from_request({"decoding_method": "SAMPLING", "seed": 5}, None, {})
    row, other = (Sampler(parameters, (), frozenset()) for _ in range(2))
    parcel = Parcel(CPU)
    for _ in range(3):
        Sampling([row], parcel).prepare(parcel)
    assert row.draw() == other.draw()
    assert row.draw() == other.draw()


def test_a_draw_is_not_lost_by_a_step_that_fails(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"decoding_method": "SAMPLING", "max_new_tokens": 9, "min_new_tokens": 9}
    expected = [alone(base, seed, **fields) for seed in range(3)]
    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(3)]
    for _ in range(3):
        engine.step()
    pick, left = Sampling.pick, [1]

    def failing(self: Sampling, logits: torch.Tensor) -> torch.Tensor:
        tokens = pick(self, logits)
        if left.pop() if left else 0:
            raise RuntimeError("once")
        return tokens

    monkeypatch.setattr(Sampling, "pick", failing)
    finish(engine)
    assert not left
    assert [each.result().generated for each in generations] == expected


def test_of_what_is_no_number_the_row_is_told(base: BaseModel) -> None:
    """One that nothing may be picked from, too; minus infinity is what a token has that may not be picked."""
    requests = [request(base, seed) for seed in range(6)]
    logits = torch.zeros(6, base.weights.vocabulary)
    logits[1, 7], logits[2, -1], logits[3, 0], logits[4] = math.nan, math.inf, -math.inf, -math.inf
    parcel = Parcel(CPU)
    wishes = Wishes(requests, parcel)
    parcel.send()
    assert [each.finite for each in wishes.read(logits)] == [True, False, False, True, False, True]


def test_a_parcel_keeps_what_is_put_into_it() -> None:
    parcel = Parcel(CPU)
    tensors = [torch.tensor([1.5]), torch.tensor([[2**40], [3]]), torch.zeros(0), torch.tensor([True])]
    there = [parcel.add(each) for each in tensors]
    parcel.send()
    assert all(torch.equal(each(), tensor) for each, tensor in zip(there, tensors, strict=True))
    assert all(map(torch.equal, fetched(tensors), tensors))


def test_buckets_hold_what_they_are_for_in_few_sizes() -> None:
    sizes = [bucket(size) for size in range(1, 4097)]
    assert all(size <= held < 1.5 * size + 1 for size, held in enumerate(sizes, 1))
    assert sorted(set(sizes))[:9] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert len(set(sizes)) == 24


def test_rooms_for_many_rows_and_for_long_ones_are_not_multiplied() -> None:
    assert room((8, 128), (12, 96)) == (12, 128)
    assert room((64, 128), (2, 4096)) == (2, 4096)
