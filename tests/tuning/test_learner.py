"""One update: which gradient, which rate, and what a bad one leaves as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.optimization import Adafactor

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.errors import TrainingDiverged
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.tuner import tune
from tests.conftest import LLAMA, SETTINGS

from .training import curve, drawn_gradients, learner_of, plan, spoilt, weights_of

UPDATES = 6
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "multitask": {"tuning_type": "MULTITASK_PROMPT_TUNING", "task_learning_rate": 0.05},
    "residual": {"reparameterization": "residual"},
    "adafactor": {"optimizer": "adafactor"},
    "decayed": {"weight_decay": 0.1, "warmup_ratio": 0.4},
    "clipped": {"max_grad_norm": 0.5},
}


# ---- the loss ----


def test_a_loss_and_its_gradient_are_means_over_the_target_tokens_of_the_window(base: BaseModel) -> None:
    """By the plain arithmetic of padded rows, also where the window is cut into many passes."""
    planned = plan(base)
    examples = make_examples(planned.records, base.text, planned.parameters)
    batch = examples.batch(range(7))
    learner = _learner_on(base, planned)
    (tensors,) = (learner.prompt.tensors(),)
    expected = base.training.padded_targets([tensors] * 7, batch).losses().sum() / batch.target_tokens
    wanted = torch.autograd.grad(expected, list(tensors.values()))
    for positions in (2**20, 40, 1):
        base.training.memory.budget = Budget(positions, 2**24)
        (loss,) = gradients(base, [learner], [batch])
        assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
        for weight, gradient in zip(tensors.values(), wanted, strict=True):
            assert weight.grad is not None
            assert _relative(weight.grad, gradient) < 1e-4


@pytest.fixture(autouse=True)
def _budget_as_it_was(llama: BaseModel, t5: BaseModel) -> Any:
    before = llama.training.memory.budget, t5.training.memory.budget
    yield
    llama.training.memory.budget, t5.training.memory.budget = before


def test_a_last_window_counts_by_its_own_size(base: BaseModel) -> None:
    """Ten records in windows of seven: seven and three."""
    planned = plan(base, batch_size=7, num_epochs=1, learning_rate=1e-9)
    sizes: list[tuple[int, float]] = []

    def watched(base: BaseModel, learners: Any, batches: Any) -> list[torch.Tensor]:
        losses = gradients(base, learners, batches)
        (batch,) = batches
        prompts = [learners[0].prompt.tensors()] * len(batch.sources)
        rows = base.training.padded_targets(prompts, batch).losses()
        sizes.append((len(batch.sources), rows.sum().item() / batch.target_tokens))
        return losses

    tuned = tune(planned, base, gradients=watched)
    assert [size for size, _ in sizes] == [7, 3]
    assert curve(tuned) == pytest.approx([loss for _, loss in sizes], rel=1e-5)


# ---- the schedule ----


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]),
        ({"warmup_ratio": 1 / 3}, [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4, 0]),
        ({"lr_scheduler_type": "constant"}, [1] * 7),
        ({"optimizer": "adafactor"}, [1] * 7),
        ({"optimizer": "adafactor", "warmup_ratio": 0.5}, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
        (
            {"optimizer": "adafactor", "lr_scheduler_type": "linear"},
            [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0],
        ),
    ],
)
def test_the_rate_of_each_update_and_after_the_last(
    llama: BaseModel, request_: dict[str, Any], expected: list[float]
) -> None:
    learner = learner_of(plan(llama, learning_rate=0.2, **request_).parameters, UPDATES, ["DECODER"])
    rates = [learner.learning_rate]
    for update in range(UPDATES):
        _update(learner, seed=update)
        rates.append(learner.learning_rate)
    assert rates == pytest.approx([0.2 * share for share in expected])


def test_the_schedule_of_a_training_counts_its_updates(llama: BaseModel) -> None:
    seen: list[Progress] = []
    tune(plan(llama, batch_size=2, accumulate_steps=2, num_epochs=2, learning_rate=0.3), llama, seen.append)
    assert [progress.learning_rate for progress in seen] == pytest.approx(
        [0.3 * left / 6 for left in (6, 5, 4, 3, 2, 1)]
    )


# ---- the optimisers ----


def test_adamw_is_the_one_of_torch_bit_for_bit(llama: BaseModel) -> None:
    parameters = plan(llama, learning_rate=0.2, weight_decay=0.01, warmup_ratio=0.4).parameters
    learner = learner_of(parameters, UPDATES, ["ENCODER", "DECODER"])
    rows = [weight.detach().clone().requires_grad_() for weight in weights_of(learner.prompt)]
    optimizer = torch.optim.AdamW(rows, lr=0.2, weight_decay=0.01)
    for update in range(UPDATES):
        optimizer.param_groups[0]["lr"] = learner.learning_rate
        for row, gradient in zip(rows, drawn_gradients(rows, update), strict=True):
            row.grad = gradient
        optimizer.step()
        _update(learner, seed=update)
        assert all(map(torch.equal, weights_of(learner.prompt), rows))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adafactor_is_the_one_of_transformers_with_the_rate_as_given(llama: BaseModel, decay: float) -> None:
    parameters = plan(llama, learning_rate=0.2, optimizer="adafactor", weight_decay=decay).parameters
    learner = learner_of(parameters, UPDATES, ["DECODER"])
    rows = [weight.detach().clone().requires_grad_() for weight in weights_of(learner.prompt)]
    kind: Any = Adafactor
    optimizer = kind(rows, lr=0.2, scale_parameter=False, relative_step=False, weight_decay=decay)
    for update in range(UPDATES):
        for row, gradient in zip(rows, drawn_gradients(rows, update), strict=True):
            row.grad = gradient
        optimizer.step()
        _update(learner, seed=update)
    for weight, row in zip(weights_of(learner.prompt), rows, strict=True):
        torch.testing.assert_close(weight, row)


def test_clipping_is_by_the_norm_over_all_weights(llama: BaseModel) -> None:
    """Adafactor's and Adam's steps hide the size of a gradient, their moments don't."""
    free, clipped = (
        learner_of(plan(llama, max_grad_norm=norm).parameters, UPDATES, ["ENCODER", "DECODER"])
        for norm in (0.0, 0.5)
    )
    for learner in (free, clipped):
        _update(learner, seed=1)
    drawn = drawn_gradients(weights_of(free.prompt), seed=1)
    norm = float(torch.cat([gradient.flatten() for gradient in drawn]).norm())
    for large, small in zip(_first_moments(free), _first_moments(clipped), strict=True):
        torch.testing.assert_close(small, large * (0.5 / norm))


def test_weight_decay_pulls_towards_zero(llama: BaseModel) -> None:
    """Decoupled: by the rate times the decay, whatever the gradient."""
    free, decayed = (
        learner_of(plan(llama, weight_decay=decay, learning_rate=0.2).parameters, UPDATES, ["DECODER"])
        for decay in (0.0, 0.5)
    )
    (initial,) = [weight.detach().clone() for weight in weights_of(free.prompt)]
    for learner in (free, decayed):
        _update(learner, seed=1)
    (there,), (pulled,) = weights_of(free.prompt), weights_of(decayed.prompt)
    torch.testing.assert_close(there - pulled, 0.2 * 0.5 * initial)


# ---- updates that can't be made ----


# The run beside it skips that update altogether, which the schedule takes for a mistake.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("bad_update", [0, 2])
@pytest.mark.parametrize("bad", ["loss", "gradient", "overflow"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_update_leaves_all_as_it_was_and_the_schedule_goes_on(
    llama: BaseModel, kind: str, bad: str, bad_update: int
) -> None:
    """From then on everything is as in a run that never saw it, at the same rates."""
    parameters = plan(llama, learning_rate=0.1, lr_scheduler_type="linear", **KINDS[kind]).parameters
    learner = learner_of(parameters, UPDATES, ["DECODER"])
    spared = learner_of(parameters, UPDATES, ["DECODER"])
    for update in range(UPDATES):
        before = [weight.detach().clone() for weight in weights_of(learner.prompt)]
        if update == bad_update:
            assert not _update(learner, seed=update, bad=bad)
            assert all(map(torch.equal, weights_of(learner.prompt), before))
            spared._schedule.step()
        else:
            assert _update(learner, seed=update)
            assert _update(spared, seed=update)
        assert learner.learning_rate == spared.learning_rate
        assert all(map(torch.equal, weights_of(learner.prompt), weights_of(spared.prompt)))
    assert not torch.equal(learner.prompt.finished().tensors["DECODER"], before[0])
    moments = [_moments(one) for one in (learner, spared)]
    assert len(moments[0]) == len(moments[1]) > 0
    assert all(map(torch.equal, *moments))


@pytest.mark.parametrize("spoiled", ["loss", "gradient"])
def test_five_bad_updates_in_a_row_end_a_training_and_four_do_not(llama: BaseModel, spoiled: str) -> None:
    def bad_from(first: int, last: int) -> Any:
        def spoil(update: int, learner: Learner, loss: torch.Tensor) -> torch.Tensor:
            if not first <= update <= last:
                return loss
            if spoiled == "loss":
                return loss * math.nan
            for weight in weights_of(learner.prompt):
                weight.grad = torch.full_like(weight, math.inf)
            return loss

        return spoilt(gradients, spoil)

    planned = plan(llama, num_epochs=6, learning_rate=0.25)
    tuned = tune(planned, llama, gradients=bad_from(3, 6))
    assert tuned.verdict["skipped_updates"] == 4
    assert len(curve(tuned)) == 12
    words = rf"{spoiled} is not finite at update 7 of 12, nor at the 4 before.*learning_rate than 0\.25"
    with pytest.raises(TrainingDiverged, match=words):
        tune(planned, llama, gradients=bad_from(3, 7))


def test_prompt_and_moments_are_float32_over_a_bfloat16_model(llama: BaseModel) -> None:
    half = POOL.get(locate(LLAMA, SETTINGS), "bfloat16", "cpu")
    planned = plan(half, torch_dtype="bfloat16")
    learner = _learner_on(half, planned)
    batch = make_examples(planned.records, half.text, planned.parameters).batch(range(3))
    (loss,) = gradients(half, [learner], [batch])
    gradient = [weight.grad for weight in weights_of(learner.prompt)]
    assert learner.step(loss)
    seen = [loss, *gradient, *weights_of(learner.prompt), *_moments(learner)]
    assert {tensor.dtype for tensor in seen if tensor is not None} == {torch.float32}
    assert tune(planned, half).prompt.tensors["DECODER"].dtype is torch.float32


# ---- helpers ----


def _learner_on(base: BaseModel, planned: Any) -> Learner:
    from caikit_pt.tuning.candidate import Candidate

    return Candidate.begin(base, planned.parameters, None, UPDATES).learner


def _update(learner: Learner, seed: int, bad: str = "") -> bool:
    """An update by gradients that are drawn; `bad` says what is wrong with it."""
    learner.forget_gradients()
    weights = weights_of(learner.prompt)
    for weight, gradient in zip(weights, drawn_gradients(weights, seed), strict=True):
        weight.grad = gradient
    if bad == "gradient":
        weights[-1].grad = torch.full_like(weights[-1], math.nan)
    elif bad == "overflow":
        # Finite itself, but not its square: a moment that would never come back.
        weights[-1].grad = torch.full_like(weights[-1], 1e30)
        if learner._max_grad_norm:
            weights[-1].grad = torch.full_like(weights[-1], math.inf)
    loss = torch.tensor(math.inf if bad == "loss" else 1.0)
    return bool(learner.step(loss))


def _moments(learner: Learner) -> list[torch.Tensor]:
    return learner._state()[len(weights_of(learner.prompt)) :]


def _first_moments(learner: Learner) -> list[torch.Tensor]:
    return [learner._optimizer.state[weight]["exp_avg"] for weight in weights_of(learner.prompt)]


def _relative(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return float((seen - expected).norm() / expected.norm())
