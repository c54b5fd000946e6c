"""A model that heeds layouts is for all others what it was: the same numbers, bit by bit, at any time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from caikit_pt.base_model.family import CAUSAL
from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.linear import freeze_linears
from caikit_pt.base_model.layers.reading import read_where_asked
from caikit_pt.base_model.loading.checkpoint import LOCAL
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row, TrainingBatch
from caikit_pt.tuning.losses import backward, losses

from .answers import Answer, greedy, sample_rows, soft_prompt
from .families import ALL_FAMILIES, PADDED_FAMILIES, Zoo

STEPS = 3
PACKED_FAMILIES = sorted({*ALL_FAMILIES} - PADDED_FAMILIES)


# Those whose positions depend on the longest row of a pass, as loaded, are in test_own_length.
@pytest.mark.parametrize("family", [name for name in ALL_FAMILIES if not name.endswith("_longrope")])
def test_answers_are_those_of_the_model_as_it_was_loaded(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    rows = _rows(base)
    prepared = greedy(base, rows, STEPS)
    untouched = greedy(
        BaseModel(base.checkpoint, FrozenWeights(_as_loaded(base)), base.text.tokenizer), rows, STEPS
    )
    _assert_identical(prepared, untouched)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_a_thread_that_serves_while_another_trains_gets_its_own_numbers(zoo: Zoo, family: str) -> None:
    """It runs from end to end in the middle of a packed forward pass of the same model."""
    base = zoo.model(family)
    assert base.training.trains_packed
    rows, batch = _rows(base), TrainingBatch([[5, 6, 7], [8] * 12], [[10, 2], [11, 12, 13, 2]])
    prompts = [{part: soft_prompt(base, 4, seed=1) for part in base.checkpoint.prompt_parts}]
    alone, costs = greedy(base, rows, STEPS), losses(base, prompts, batch)
    served: list[list[Answer]] = []

    def serve(*_: object) -> None:
        handle.remove()
        with ThreadPoolExecutor(1) as pool:
            served.append(pool.submit(greedy, base, rows, STEPS).result())

    layers = next(
        module for module in base.weights.model.modules() if isinstance(module, torch.nn.ModuleList)
    )
    handle = layers[0].register_forward_pre_hook(serve)
    torch.testing.assert_close(losses(base, prompts, batch), costs, rtol=0, atol=0)
    _assert_identical(served[0], alone)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_serving_and_training_side_by_side_change_nothing(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    rows, batch = _rows(base), TrainingBatch([[5, 6, 7], [8] * 12], [[10, 2], [11, 12, 13, 2]])
    expected, gradient = greedy(base, rows, STEPS), _gradients(base, batch)
    trained = Event()

    def serve() -> list[list[Answer]]:
        served = [greedy(base, rows, STEPS)]
        while not trained.is_set():
            served.append(greedy(base, rows, STEPS))
        return served

    with ThreadPoolExecutor(2) as pool:
        serving = pool.submit(serve)
        try:
            again = [pool.submit(_gradients, base, batch).result() for _ in range(20)]
        finally:
            trained.set()
        for answers in serving.result():
            _assert_identical(answers, expected)
    for seen in again:
        assert all(map(torch.equal, seen, gradient))


# ---- helpers ----


def _rows(base: BaseModel) -> list[Row]:
    """Rows of one cohort, the first and the last of the samples: of one prompt length, and padded."""
    rows = sample_rows(base, base.checkpoint.prompt_parts)
    return [rows[0], rows[-1]]


def _as_loaded(base: BaseModel) -> torch.nn.Module:
    """The model from disk that wasn't taught to heed layouts."""
    auto = AutoModelForCausalLM if base.checkpoint.family == CAUSAL else AutoModelForSeq2SeqLM
    model: torch.nn.Module = auto.from_pretrained(base.checkpoint.directory, dtype=torch.float32, **LOCAL)
    freeze_linears(model)
    read_where_asked(model)
    return model


def _gradients(base: BaseModel, batch: TrainingBatch) -> list[torch.Tensor]:
    parts = base.checkpoint.prompt_parts
    prompt = {part: soft_prompt(base, 4, seed=1).requires_grad_() for part in parts}
    backward(base, [prompt], batch, [1.0] * len(batch.sources))
    return [tensor.grad for tensor in prompt.values() if tensor.grad is not None]


def _assert_identical(answers: list[Answer], expected: list[Answer]) -> None:
    for answer, other in zip(answers, expected, strict=True):
        assert torch.equal(answer.logits, other.logits)
        assert answer.tokens == other.tokens
