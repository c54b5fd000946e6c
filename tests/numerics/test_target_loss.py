"""The loss that a prompt is tuned with, and its gradient, against the slow and obvious version.

That version takes one example at a time, computes every logit, and sums what each target token
costs by hand. The product pads, batches, and computes logits only where it needs them.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from caikit_pt.base_model.frozen import BaseModel, TrainingBatch
from caikit_pt.tuning.examples import Examples, make_examples
from caikit_pt.tuning.tuner import tune

from .answers import ROUNDING, soft_prompt
from .cases import every_case
from .families import BOS, EOS, FAMILIES, VOCABULARY, Zoo
from .precision import everything_in_float64
from .references import target_logits
from .tunings import VIRTUAL_TOKENS, records, small_plan

EXAMPLES = 5
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_case
def test_loss_and_gradient_equal_the_obvious_version(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base = zoo.model(family, "float64")
    batch = _batch(base)
    ours, obvious = (_leaves(base, parts, torch.float64) for _ in range(2))
    with everything_in_float64():
        loss = base.target_loss(ours, batch)
        expected = _obvious_loss(base, obvious, batch)
        torch.autograd.backward([loss, expected])
    assert loss.item() == pytest.approx(expected.item(), rel=ROUNDING)
    for part in parts:
        torch.testing.assert_close(ours[part].grad, obvious[part].grad, rtol=0, atol=ROUNDING)
        assert _gradient(obvious[part]).abs().min() > 1e-6, "no row of the prompt is idle"


@every_case
def test_in_float32_only_rounding_is_added(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base, wide = zoo.model(family), zoo.model(family, "float64")
    batch = _batch(base)
    ours, exact = _leaves(base, parts, torch.float32), _leaves(base, parts, torch.float64)
    loss, expected = base.target_loss(ours, batch), _obvious_loss(wide, exact, batch)
    torch.autograd.backward([loss, expected])
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for part in parts:
        gradient, reference = _gradient(ours[part]), _gradient(exact[part])
        assert gradient.dtype is torch.float32
        assert (gradient - reference).abs().max() <= 1e-3 * reference.abs().max()


@every_case
def test_an_example_costs_the_same_in_every_batch(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base = zoo.model(family, "float64")
    examples, prompt = _examples(base), _leaves(base, parts, torch.float64)
    everyone = list(range(len(examples)))
    with everything_in_float64(), torch.no_grad():
        together = base.target_loss(prompt, examples.batch(everyone))
        reverse = base.target_loss(prompt, examples.batch(everyone[::-1]))
        alone = [base.target_loss(prompt, examples.batch([index])) for index in everyone]
    assert float(together) == pytest.approx(float(sum(alone)), rel=ROUNDING)
    assert float(together) == pytest.approx(float(reverse), rel=ROUNDING)


# ---- labels ----


@every_family
def test_targets_are_the_output_and_one_end_token(zoo: Zoo, family: str) -> None:
    """Never the token that begins a text, which many tokenizers put in front of an output too."""
    base = zoo.model(family)
    for example, record in zip(_examples(base).items, records(EXAMPLES), strict=True):
        output = [VOCABULARY[word] for word in record.output.split()]
        assert example.target == [*output, VOCABULARY[EOS]]
        assert example.source == base.source_ids(record.input)


@every_family
def test_labels_hold_the_targets_and_nothing_else(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the cross-entropy: no source, no BOS, no padding, every target token once."""
    base = zoo.model(family)
    batch = _batch(base)
    seen: list[torch.Tensor] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def spy(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(labels)
        return cross_entropy(logits, labels, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy)
    base.target_loss(_leaves(base, base.checkpoint.prompt_parts, torch.float32), batch)
    (labels,) = seen
    rows = labels.reshape(len(batch.targets), -1)
    counted = [[int(token) for token in row if token != -100] for row in rows]
    assert counted == [list(target) for target in batch.targets]
    assert sum(map(len, counted)) == batch.target_tokens
    assert VOCABULARY[BOS] not in labels


@every_family
def test_a_source_token_is_read_but_never_predicted(zoo: Zoo, family: str) -> None:
    """A model that can't tell tokens apart charges log V for each label: that counts them."""
    base = zoo.model(family)
    batch = _batch(base)
    prompt = _leaves(base, base.checkpoint.prompt_parts, torch.float32)
    vocabulary = base.model.config.vocab_size
    layer = base.model.get_output_embeddings()
    blind = layer.register_forward_hook(lambda _layer, _input, logits: torch.zeros_like(logits))
    try:
        loss = base.target_loss(prompt, batch).item()
    finally:
        blind.remove()
    labels = loss / math.log(vocabulary)
    assert labels == pytest.approx(batch.target_tokens, rel=1e-5)


# ---- the base model stays as it was ----


@every_family
def test_a_training_leaves_the_base_model_alone(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    tuned = tune(small_plan(base, output_model_types=base.checkpoint.prompt_parts), base)
    assert tuned.training_logs[0]["data"]["value"] != tuned.training_logs[-1]["data"]["value"]
    assert not base.model.training, "dropout is off"
    for name, parameter in base.model.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(before[name], tensor), name


# ---- helpers ----


def _examples(base: BaseModel) -> Examples:
    plan = small_plan(base, examples=EXAMPLES)
    return make_examples(plan.records, base, plan.parameters)


def _batch(base: BaseModel) -> TrainingBatch:
    examples = _examples(base)
    return examples.batch(list(range(len(examples))))


def _leaves(base: BaseModel, parts: tuple[str, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A prompt of which gradients can be taken."""
    return {
        part: soft_prompt(base, VIRTUAL_TOKENS, seed=side).to(dtype).requires_grad_()
        for side, part in enumerate(parts)
    }


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _obvious_loss(base: BaseModel, prompt: dict[str, torch.Tensor], batch: TrainingBatch) -> torch.Tensor:
    """The cost of every target token after all that stands before it, one example at a time."""
    costs = []
    for source, target in zip(batch.sources, batch.targets, strict=True):
        logarithms = target_logits(base, prompt, source, target).double().log_softmax(dim=-1)
        costs += [-row[token] for row, token in zip(logarithms, target, strict=True)]
    return torch.stack(costs).sum()
