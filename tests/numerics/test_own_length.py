"""Models whose positions depend on how long a row is: each row has those of its own length."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import AutoModelForCausalLM

from caikit_pt.base_model.loading.checkpoint import LOCAL
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row, TrainingBatch
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.parameters.tuning import DECODER
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.request import Request
from caikit_pt.serving.scheduler import Limits
from caikit_pt.soft_prompt.prompt import SoftPrompt

from .answers import TOLERANCE, soft_prompt, words
from .families import SHORT_ROW, Zoo

FAMILIES = ("phi3_longrope", "phimoe_longrope")
NEW = 12
# Virtual tokens and words: short to the end, short at first, just full, long from the start.
LENGTHS = ((0, 4), (3, 8), (6, SHORT_ROW - 7), (8, 40))
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("read_positions", [5, 512])
def test_an_answer_is_what_the_model_alone_would_say(
    zoo: Zoo, family: str, order: tuple[int, ...], read_positions: int
) -> None:
    base = zoo.model(family)
    assert base.serving.serves_batched
    rows = [_row(base, number) for number in order]
    engine = Engine(base, Limits(rows=8, waiting=8, read_positions=read_positions))
    requests = [_request(base, row) for row in rows]
    for request in requests:
        engine.submit(request)
        engine.step()
    while engine.busy:
        engine.step()
    for row, request in zip(rows, requests, strict=True):
        assert request.generated == _obvious_answer(base, row)


@every_family
def test_a_loss_is_what_the_model_alone_would_give(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    rows = [_row(base, number) for number in range(4)]
    prompt = soft_prompt(base, 5, seed=9).requires_grad_()
    targets = [base.text.source_ids(words(3, seed=number))[1:] for number in range(4)]
    batch = TrainingBatch([row.ids for row in rows], targets)
    assert base.training.trains_packed
    for step in (
        base.training.packed_step([{DECODER: prompt}]),
        base.training.padded_step([{DECODER: prompt}]),
    ):
        losses = step.target_losses(batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        step.finish()
        gradient = _taken(prompt)
        expected = [
            _obvious_loss(base, prompt, row.ids, target) for row, target in zip(rows, targets, strict=True)
        ]
        torch.stack(expected).sum().backward()  # type: ignore[no-untyped-call]
        exact = _taken(prompt)
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@every_family
def test_the_factors_show(zoo: Zoo, family: str) -> None:
    """Else the tests above could not fail: with the factors of long rows, a short one says something else."""
    base = zoo.model(family)
    plain = _plain(base)
    short, long = base.text.source_ids(words(6, seed=1)), base.text.source_ids(words(30, seed=2))
    ids = torch.tensor([short + [0] * (len(long) - len(short)), long])
    mask = torch.tensor([[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)])
    with torch.no_grad():
        alone = plain(input_ids=ids[:1, : len(short)]).logits[0, -1]
        beside = plain(input_ids=ids, attention_mask=mask).logits[0, len(short) - 1]
    assert float((alone - beside).abs().max()) > 100 * TOLERANCE


def test_a_model_that_stretches_with_each_position_ends_where_it_would_begin_to() -> None:
    """`dynamic`: rows past `max_position_embeddings` would change all their keys with every token."""
    from .families import CAUSAL_FAMILIES

    config = CAUSAL_FAMILIES["llama"].config()
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    rope = next(module for module in model.modules() if hasattr(module, "rope_type"))
    before = rope.inv_freq.clone()
    model(input_ids=torch.ones(1, config.max_position_embeddings, dtype=torch.long))
    assert torch.equal(rope.inv_freq, before)
    model(input_ids=torch.ones(1, config.max_position_embeddings + 1, dtype=torch.long))
    assert not torch.equal(rope.inv_freq, before)


# ---- helpers ----


def _row(base: BaseModel, number: int) -> Row:
    virtual, text = LENGTHS[number]
    prompt = {DECODER: soft_prompt(base, virtual, seed=number)} if virtual else {}
    return Row(prompt, base.text.source_ids(words(text, seed=number)))


def _request(base: BaseModel, row: Row) -> Request:
    # No token ends an answer before its time.
    parameters = GenerationParameters(max_new_tokens=NEW, min_new_tokens=NEW)
    return Request(base.text, SoftPrompt(row.prompt), row.ids, parameters)


def _taken(leaf: torch.Tensor) -> torch.Tensor:
    gradient, leaf.grad = leaf.grad, None
    assert gradient is not None
    return gradient


def _plain(base: BaseModel) -> torch.nn.Module:
    """The model as transformers has it."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        base.checkpoint.directory, dtype=torch.float32, **LOCAL
    )
    return model.eval()


def _obvious_answer(base: BaseModel, row: Row) -> list[int]:
    """Greedy, reading everything from the start for each token."""
    plain, taken = _plain(base), list[int]()
    with torch.no_grad():
        for _ in range(NEW):
            whole = base.weights.join(row.prompt.get(DECODER), [*row.ids, *taken])[None]
            logits = plain(inputs_embeds=whole, use_cache=False).logits[0, -1]
            logits[list(base.text.end_ids)] = -torch.inf
            taken.append(int(logits.argmax()))
    return taken


def _obvious_loss(
    base: BaseModel, prompt: torch.Tensor, source: Sequence[int], target: Sequence[int]
) -> torch.Tensor:
    whole = base.weights.join(prompt, [*source, *target[:-1]])[None]
    logits = _plain(base)(inputs_embeds=whole, use_cache=False).logits[0, -len(target) :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum")
