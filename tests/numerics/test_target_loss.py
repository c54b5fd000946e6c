"""The losses that prompts are tuned with, and their gradients, against the slow and obvious version.

That version takes one example at a time, computes every logit, and sums what each target token
costs by hand. The product packs or pads, shares what rows have in common, cuts a batch into forward
passes, and computes logits only where it needs them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.layers import attention
from caikit_pt.base_model.layers.reading import LAST
from caikit_pt.base_model.layers.recompute import recomputing
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.base_model.training.step import PaddedStep, Step
from caikit_pt.base_model.trials.states import check_states
from caikit_pt.tuning.examples import Examples, make_examples
from caikit_pt.tuning.losses import Lessons, backward, losses, step_for
from caikit_pt.tuning.tuner import tune

from .answers import DECODER_ONLY, ROUNDING, soft_prompt, words
from .cases import every_case, every_training_case
from .families import ALL_FAMILIES, BOS, EOS, FAMILIES, PADDED_FAMILIES, SLIDING_WINDOW, VOCABULARY, Zoo
from .precision import everything_in_float64
from .references import target_logits, target_states
from .tunings import VIRTUAL_TOKENS, records, small_plan

EXAMPLES = 5
FAST, PLAIN = "fast", "plain"
# The virtual tokens of prompts that share a batch: more than the sliding windows see, and fewer.
LENGTHS = (12, 3)
# Words of the source and of the target, and the index of the prompt. The last two have texts of one
# length, and targets that differ by more than a sliding window.
MIXED = (
    (1, 0, 0), (5, 6, 1), (20, 2, 0), (9, 13, 1), (2, 3, 1), (20, 14, 0), (21, 1, 0), (4, 14, 0), (17, 1, 0),
)  # fmt: skip
BUDGETS = (1, 10, 1000)

every_family = pytest.mark.parametrize("family", FAMILIES)
both_ways = pytest.mark.parametrize("way", [FAST, PLAIN])

Prompt = dict[str, torch.Tensor]


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_rows_are_packed_where_the_model_lets_them(zoo: Zoo, family: str) -> None:
    base = zoo.model(family, "float64")
    assert base.training.trains_packed == (family not in PADDED_FAMILIES)
    plain = isinstance(base.training.step([_prompt(base, base.checkpoint.prompt_parts)]), PaddedStep)
    assert plain == (family in PADDED_FAMILIES)


@both_ways
@every_training_case
def test_loss_and_gradient_equal_the_obvious_version(
    zoo: Zoo, family: str, parts: tuple[str, ...], way: str
) -> None:
    base = zoo.model(family, "float64")
    batch = _batch(base)
    ours, obvious = (_prompt(base, parts) for _ in range(2))
    with everything_in_float64():
        seen = _backward(base, [ours], batch, way)
        expected = _obvious_backward(base, [obvious], batch)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    _assert_same_gradients(ours, obvious)
    assert all(_gradient(obvious[part]).abs().min() > 1e-6 for part in parts), "no row of the prompt is idle"


@both_ways
@every_training_case
def test_prompts_that_share_a_batch_are_as_if_alone(
    zoo: Zoo, family: str, parts: tuple[str, ...], way: str
) -> None:
    base = zoo.model(family, "float64")
    batch = _mixed(base)
    ours, obvious, alone = (_prompts(base, parts) for _ in range(3))
    with everything_in_float64():
        seen = _backward(base, ours, batch, way)
        expected = _obvious_backward(base, obvious, batch)
        for index, prompt in enumerate(alone):
            rows = [row for row, owner in enumerate(batch.prompts) if owner == index]
            own = TrainingBatch([batch.sources[row] for row in rows], [batch.targets[row] for row in rows])
            _backward(base, [prompt], own, way, [_weights(batch)[row] for row in rows])
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    for prompt, reference, single in zip(ours, obvious, alone, strict=True):
        _assert_same_gradients(prompt, reference)
        _assert_same_gradients(prompt, single)


@every_training_case
def test_what_teachers_say_equals_the_obvious_version(
    zoo: Zoo, family: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the batch is cut into passes. A teacher gets no gradient; states are of two layers."""
    base = zoo.model(family, "float64")
    monkeypatch.setattr(base.training.memory, "budget", Budget(40, 2**24))
    batch, teachers = _mixed(base), _prompts(base, parts)
    for teacher in teachers:
        for tensor in teacher.values():
            tensor.data.mul_(0.9)
    ours, obvious = (_prompts(base, parts) for _ in range(2))
    check_states(base.training, [1, base.checkpoint.layers])
    step, layers = step_for(base, teachers, batch), (1, LAST)
    lessons = Lessons(step, range(2), tokens=0.7, temperature=2.0, states=0.3, layers=layers)
    with everything_in_float64():
        seen = backward(base, ours, batch, _weights(batch), lessons)
        rows = _obvious_losses(base, obvious, batch)
        divergences = _obvious_divergences(base, obvious, teachers, batch)
        distances = _obvious_distances(base, obvious, teachers, batch)
        taught = [
            row + 0.7 * 2.0**2 * divergence + 0.3 * distance
            for row, divergence, distance in zip(rows, divergences, distances, strict=True)
        ]
        weighted = [weight * row for weight, row in zip(_weights(batch), taught, strict=True)]
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(seen, torch.stack(rows).detach(), rtol=ROUNDING, atol=0)
    for prompt, reference in zip(ours, obvious, strict=True):
        _assert_same_gradients(prompt, reference)
    assert all(tensor.grad is None for teacher in teachers for tensor in teacher.values())


@every_case
def test_the_attention_of_a_gpu_is_the_same(
    zoo: Zoo, family: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo.model(family, "float64")
    batch, ours, obvious = _mixed(base), _prompts(base, parts), _prompts(base, parts)
    with everything_in_float64():
        assert base.training.trains_packed == (family not in PADDED_FAMILIES)
        monkeypatch.setattr(attention.Rows, "attend", attention.Rows.attend_fused)
        seen = _backward(base, ours, batch, FAST)
        expected = _obvious_backward(base, obvious, batch)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    for prompt, reference in zip(ours, obvious, strict=True):
        _assert_same_gradients(prompt, reference)


@every_training_case
@pytest.mark.parametrize("attend", ["attend", "attend_fused"])
def test_positions_that_are_nobodys_change_nothing(
    zoo: Zoo, family: str, parts: tuple[str, ...], attend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As there are behind the rows where few numbers of positions are wanted."""
    base = zoo.model(family, "float64")
    if not base.training.trains_packed:
        pytest.skip("its rows are padded")
    batch, ours, obvious = _mixed(base), _prompts(base, parts), _prompts(base, parts)
    monkeypatch.setitem(base.training.__dict__, "rounds_rows", True)
    monkeypatch.setattr(attention.Rows, "attend", getattr(attention.Rows, attend))
    with everything_in_float64():
        seen = _backward(base, ours, batch, FAST)
        expected = _obvious_backward(base, obvious, batch)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    for prompt, reference in zip(ours, obvious, strict=True):
        _assert_same_gradients(prompt, reference)


@both_ways
@every_training_case
def test_layers_that_are_computed_twice_change_nothing(
    zoo: Zoo, family: str, parts: tuple[str, ...], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keep little: the attention of no layer, for one."""
    base = zoo.model(family, "float64")
    batch, ours, plain = _mixed(base), _prompts(base, parts), _prompts(base, parts)
    with everything_in_float64():
        with _saved_numbers() as kept:
            expected = _backward(base, plain, batch, way)
        monkeypatch.setattr(
            base.training.memory, "budget", replace(base.training.memory.budget, recompute=True)
        )
        with _saved_numbers() as still_kept, recomputing(way == PLAIN):
            seen = _backward(base, ours, batch, way)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    for prompt, reference in zip(ours, plain, strict=True):
        _assert_same_gradients(prompt, reference)
    assert sum(still_kept) < sum(kept) / 2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_text_that_all_sources_begin_with_is_computed_twice_too(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a single row: all of it but the last token. It kept what the row itself no longer did."""
    base = zoo.model(family, "float64")
    batch = TrainingBatch([base.text.source_ids(words(40, seed=1))], [base.text.target_ids("w1 w2")])
    ours, plain = _prompt(base, DECODER_ONLY), _prompt(base, DECODER_ONLY)
    with everything_in_float64():
        with _saved_numbers() as kept:
            expected = _backward(base, [plain], batch, FAST)
        monkeypatch.setattr(
            base.training.memory, "budget", replace(base.training.memory.budget, recompute=True)
        )
        with _saved_numbers() as still_kept:
            seen = _backward(base, [ours], batch, FAST)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    _assert_same_gradients(ours, plain)
    assert sum(still_kept) < sum(kept) / 2


def test_what_a_layer_raises_leaves_nothing_behind(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its error is kept, a graph of somebody else's has what it saved."""
    base = zoo.model("llama", "float64")
    batch, prompts = _batch(base), [_prompt(base, DECODER_ONLY)]
    monkeypatch.setattr(base.training.memory, "budget", replace(base.training.memory.budget, recompute=True))
    monkeypatch.setattr(attention.Rows, "attend", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        _backward(base, prompts, batch, FAST)
    leaf = torch.ones(1, requires_grad=True)
    square = leaf.exp()
    square.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(_gradient(leaf), square.detach())
    assert kept.value is not None


def test_a_prompt_whose_rows_count_nothing_gets_no_gradient(zoo: Zoo) -> None:
    base = zoo.model("llama")
    prompts, batch = _prompts(base, DECODER_ONLY, torch.float32), _mixed(base)
    backward(base, prompts, batch, [float(owner == 1) for owner in batch.prompts])
    assert not _gradient(prompts[0]["DECODER"]).any()
    assert _gradient(prompts[1]["DECODER"]).any()


@both_ways
@every_case
def test_in_float32_only_rounding_is_added(zoo: Zoo, family: str, parts: tuple[str, ...], way: str) -> None:
    base, wide = zoo.model(family), zoo.model(family, "float64")
    batch = _batch(base)
    ours, exact = _prompt(base, parts, torch.float32), _prompt(base, parts)
    seen = _backward(base, [ours], batch, way, [1.0] * EXAMPLES)
    expected = _obvious_backward(wide, [exact], batch, [1.0] * EXAMPLES)
    assert seen.dtype is torch.float32
    assert float(seen.sum()) == pytest.approx(float(expected.sum()), rel=1e-5)
    for part in parts:
        gradient, reference = _gradient(ours[part]), _gradient(exact[part])
        assert gradient.dtype is torch.float32
        assert (gradient - reference).abs().max() <= 1e-3 * reference.abs().max()


@every_case
def test_an_example_costs_the_same_in_every_batch(
    zoo: Zoo, family: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands beside it, and however the batch is cut into forward passes."""
    base = zoo.model(family, "float64")
    batch, prompts = _mixed(base), _prompts(base, parts)
    rows = list(range(len(batch.sources)))
    with everything_in_float64():
        alone = torch.cat([losses(base, prompts, _picked(batch, [row])) for row in rows])
        backwards = losses(base, prompts, _picked(batch, rows[::-1]))
        cut = []
        for positions in BUDGETS:
            monkeypatch.setattr(base.training.memory, "budget", Budget(positions, 2**24))
            again = _prompts(base, parts)
            cut.append((_backward(base, again, batch, FAST), again))
    torch.testing.assert_close(backwards.flip(0), alone, rtol=ROUNDING, atol=0)
    for seen, again in cut:
        torch.testing.assert_close(seen, alone, rtol=ROUNDING, atol=0)
        for prompt, reference in zip(again, cut[0][1], strict=True):
            _assert_same_gradients(prompt, reference)


@pytest.mark.parametrize("family", ["gemma3", "mistral", "phi3", "olmo3"])
def test_some_prompts_and_rows_are_longer_than_the_sliding_window_and_some_shorter(
    zoo: Zoo, family: str
) -> None:
    base = zoo.model(family)
    assert base.checkpoint.config.sliding_window == SLIDING_WINDOW
    assert min(LENGTHS) < SLIDING_WINDOW < max(LENGTHS)
    batch = _mixed(base)
    lengths = [len(source) + len(target) - 1 for source, target in _pairs(batch)]
    assert min(lengths) < SLIDING_WINDOW < max(lengths)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "bloom", "t5"])
def test_a_base_model_without_a_prompt_has_losses_too(zoo: Zoo, family: str) -> None:
    """Alone, and beside one that has a prompt: what a tuned prompt is compared with."""
    base = zoo.model(family, "float64")
    batch = _mixed(base)
    tuned = _prompt(base, base.checkpoint.prompt_parts)
    with everything_in_float64(), torch.no_grad():
        both: tuple[list[Prompt], ...] = ([{}, tuned], [{}, {}])
        for prompts in both:
            expected = torch.stack(_obvious_losses(base, prompts, batch))
            torch.testing.assert_close(losses(base, prompts, batch), expected, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_a_source_without_any_token_is_right_too(zoo: Zoo, family: str) -> None:
    """The prompt, which the rows share, predicts its first target token."""
    base = zoo.model(family, "float64")
    batch = TrainingBatch([[7, 8], [], [9]], [[10, 11], [12, 13], [14]])
    ours, obvious = (_prompt(base, DECODER_ONLY) for _ in range(2))
    with everything_in_float64():
        seen = _backward(base, [ours], batch, FAST)
        expected = _obvious_backward(base, [obvious], batch)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    _assert_same_gradients(ours, obvious)


# ---- labels ----


@every_family
def test_targets_are_the_output_and_one_end_token(zoo: Zoo, family: str) -> None:
    """Never the token that begins a text, which many tokenizers put in front of an output too."""
    base = zoo.model(family)
    for example, record in zip(_examples(base).items, records(EXAMPLES), strict=True):
        output = [VOCABULARY[word] for word in record.output.split()]
        assert example.target == [*output, VOCABULARY[EOS]]
        assert example.source == base.text.source_ids(record.input)


@both_ways
@every_family
def test_labels_hold_the_targets_and_nothing_else(
    zoo: Zoo, family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the cross-entropy: no source, no BOS, no padding, every target token once."""
    base = zoo.model(family)
    batch = _batch(base)
    step = _step(base, [_prompt(base, base.checkpoint.prompt_parts, torch.float32)], way)
    seen: list[torch.Tensor] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def spy(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        assert len(logits) == len(labels)
        seen.append(labels)
        return cross_entropy(logits, labels, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy)
    step.target_losses(batch)
    (labels,) = seen
    counted = [int(token) for token in labels if token != -100]
    assert counted == [token for target in batch.targets for token in target]
    assert len(counted) == batch.target_tokens
    assert VOCABULARY[BOS] not in labels


@both_ways
@every_family
def test_a_source_token_is_read_but_never_predicted(zoo: Zoo, family: str, way: str) -> None:
    """A model that can't tell tokens apart charges log V for each label: that counts them."""
    base = zoo.model(family)
    batch = _batch(base)
    step = _step(base, [_prompt(base, base.checkpoint.prompt_parts, torch.float32)], way)
    layer = base.weights.model.get_output_embeddings()
    blind = layer.register_forward_hook(lambda _layer, _input, logits: torch.zeros_like(logits))
    try:
        labels = step.target_losses(batch) / math.log(base.weights.model.config.vocab_size)
    finally:
        blind.remove()
    assert labels.tolist() == pytest.approx([len(target) for target in batch.targets], rel=1e-5)
    assert float(labels.sum()) == pytest.approx(batch.target_tokens, rel=1e-5)


# ---- the base model stays as it was ----


@both_ways
@every_family
def test_a_step_leaves_the_base_model_alone(zoo: Zoo, family: str, way: str) -> None:
    base = zoo.model(family)
    before = {name: tensor.clone() for name, tensor in base.weights.model.state_dict().items()}
    _backward(base, [_prompt(base, base.checkpoint.prompt_parts, torch.float32)], _batch(base), way)
    _assert_untouched(base, before)


@every_family
def test_a_training_leaves_the_base_model_alone(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    before = {name: tensor.clone() for name, tensor in base.weights.model.state_dict().items()}
    tuned = tune(small_plan(base, output_model_types=base.checkpoint.prompt_parts), base)
    assert tuned.training_logs[0]["data"]["value"] != tuned.training_logs[-1]["data"]["value"]
    _assert_untouched(base, before)


# ---- helpers ----


def _assert_untouched(base: BaseModel, before: dict[str, torch.Tensor]) -> None:
    assert not any(module.training for module in base.weights.model.modules()), "dropout is off"
    for name, parameter in base.weights.model.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    after = base.weights.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(before[name], tensor), name


@contextmanager
def _saved_numbers() -> Iterator[list[int]]:
    """How many numbers each tensor has that is kept for a backward."""
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def _assert_same_gradients(ours: Prompt, expected: Prompt) -> None:
    for part, tensor in expected.items():
        torch.testing.assert_close(_gradient(ours[part]), _gradient(tensor), rtol=0, atol=ROUNDING)


def _examples(base: BaseModel) -> Examples:
    plan = small_plan(base, examples=EXAMPLES)
    return make_examples(plan.records, base.text, plan.parameters)


def _batch(base: BaseModel) -> TrainingBatch:
    examples = _examples(base)
    return examples.batch(list(range(len(examples))))


def _mixed(base: BaseModel) -> TrainingBatch:
    """Rows of two prompts and of many lengths, which begin with the same words."""
    return TrainingBatch(
        [base.text.source_ids(f"w3 w4 {words(count, seed=count)}") for count, _, _ in MIXED],
        [[*base.text.target_ids(words(count, seed=50 + count)), base.text.end_id] for _, count, _ in MIXED],
        [prompt for _, _, prompt in MIXED],
    )


def _picked(batch: TrainingBatch, rows: list[int]) -> TrainingBatch:
    return TrainingBatch(
        [batch.sources[row] for row in rows],
        [batch.targets[row] for row in rows],
        [batch.prompts[row] for row in rows],
    )


def _pairs(batch: TrainingBatch) -> list[tuple[Sequence[int], Sequence[int]]]:
    return list(zip(batch.sources, batch.targets, strict=True))


def _prompt(
    base: BaseModel,
    parts: tuple[str, ...],
    dtype: torch.dtype = torch.float64,
    length: int = VIRTUAL_TOKENS,
) -> Prompt:
    """A prompt of which gradients can be taken."""
    return {
        part: soft_prompt(base, length, seed=10 * length + side).to(dtype).requires_grad_()
        for side, part in enumerate(parts)
    }


def _prompts(base: BaseModel, parts: tuple[str, ...], dtype: torch.dtype = torch.float64) -> list[Prompt]:
    """One for each of LENGTHS."""
    return [_prompt(base, parts, dtype, length) for length in LENGTHS]


def _weights(batch: TrainingBatch) -> list[float]:
    """No two alike, and none that float32 holds exactly."""
    return [(1 + row) / (3 * batch.target_tokens) for row in range(len(batch.sources))]


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _step(base: BaseModel, prompts: Sequence[PromptTensors], way: str) -> Step:
    return base.training.step(prompts) if way == FAST else base.training.padded_step(prompts)


def _backward(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    batch: TrainingBatch,
    way: str,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """The losses of each row, and the gradient of their sum by `weights` in the prompts."""
    weights = weights or _weights(batch)
    if way == FAST:
        return backward(base, prompts, batch, weights)
    step = base.training.padded_step(prompts)
    seen = step.target_losses(batch)
    (seen * seen.new_tensor(weights)).sum().backward()  # type: ignore[no-untyped-call]
    step.finish()
    return seen.detach()


def _obvious_backward(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    batch: TrainingBatch,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    rows = _obvious_losses(base, prompts, batch)
    weighted = [weight * row for weight, row in zip(weights or _weights(batch), rows, strict=True)]
    torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
    return torch.stack(rows).detach()


def _obvious_divergences(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    teachers: Sequence[PromptTensors],
    batch: TrainingBatch,
    temperature: float = 2.0,
) -> list[torch.Tensor]:
    """Sum over a row's target tokens and the vocabulary of p log(p / q), one example at a time."""
    rows = []
    for (source, target), owner in zip(_pairs(batch), batch.prompt_of_rows, strict=True):
        own, theirs = (
            (target_logits(base, prompt, source, target).double() / temperature).softmax(dim=-1)
            for prompt in (prompts[owner], teachers[owner])
        )
        theirs = theirs.detach()
        rows.append((theirs * (theirs / own).log()).sum())
    return rows


def _obvious_distances(
    base: BaseModel,
    prompts: Sequence[PromptTensors],
    teachers: Sequence[PromptTensors],
    batch: TrainingBatch,
) -> list[torch.Tensor]:
    """Of what the output layer gets at each target token, and of what the first layer gives, the square of
    the difference in shares of that of the teacher's: the mean of both."""
    states: list[torch.Tensor] = []
    layer = base.weights.model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0][0]))
    rows = []
    for (source, target), owner in zip(_pairs(batch), batch.prompt_of_rows, strict=True):
        sides = []
        for prompt in (prompts[owner], teachers[owner]):
            first = target_states(base, prompt, source, target, layer=1)
            sides.append([first.double(), states[-1][-len(target) :].double()])
        pairs = [(own, theirs.detach()) for own, theirs in zip(*sides, strict=True)]
        shares = [(own - theirs).norm(dim=-1) / theirs.norm(dim=-1) for own, theirs in pairs]
        rows.append(torch.stack(shares).square().sum() / 2)
    hook.remove()
    return rows


def _obvious_losses(
    base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch
) -> list[torch.Tensor]:
    """The cost of every target token after all that stands before it, one example at a time."""
    rows = []
    for (source, target), owner in zip(_pairs(batch), batch.prompt_of_rows, strict=True):
        logarithms = target_logits(base, prompts[owner], source, target).double().log_softmax(dim=-1)
        costs = [-row[token] for row, token in zip(logarithms, target, strict=True)]
        rows.append(torch.stack(costs).sum())
    return rows
