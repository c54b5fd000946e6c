"""The training itself: what an update sees, and what comes out."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.trials import training as trials
from caikit_pt.errors import TrainingDiverged
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.records import Record, Records
from caikit_pt.tuning.tuner import tune
from tests.conftest import SETTINGS
from tests.perturbation import SEED

WORDS = ("kettle", "lamp", "desk", "chair", "mixer")
RECORDS = Records(
    tuple(Record(f"the {word} is {mood}", mood) for word in WORDS for mood in ("good", "bad")), False
)


def plan(base: BaseModel, **request: Any) -> TuningPlan:
    quick = {"num_virtual_tokens": 4, "num_epochs": 2, "batch_size": 2}
    request = {"base_model": base.checkpoint.name, **quick, **request}
    return make_plan(request, RECORDS.items, None, SETTINGS)


def test_what_is_too_small_to_count_costs_a_training_nothing(llama: BaseModel) -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor always reckons with denormals")
    seen: list[float] = []
    tune(plan(llama, num_epochs=1), llama, lambda _: seen.append(float(torch.tensor(1e-40) * 1.0)))
    assert set(seen) == {0.0}
    assert float(torch.tensor(1e-40) * 1.0) > 0.0


def losses(tuned: Any, name: str = "loss") -> list[float]:
    return [entry["data"]["value"] for entry in tuned.training_logs if entry["name"] == name]


def test_training_lowers_the_loss(base: BaseModel) -> None:
    values = losses(tune(plan(base, num_epochs=12, seed=SEED), base))
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


def test_the_loss_of_an_update_is_the_mean_over_its_target_tokens(base: BaseModel) -> None:
    """However the window is cut into batches, the update is the same."""
    request = {"num_epochs": 2, "seed": 5}
    whole = tune(plan(base, batch_size=10, **request), base)
    parts = tune(plan(base, batch_size=3, accumulate_steps=4, **request), base)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for part, tensor in whole.prompt.tensors.items():
        torch.testing.assert_close(parts.prompt.tensors[part], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tuning_type", ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"])
def test_a_seed_gives_the_same_bits_whatever_the_global_state(base: BaseModel, tuning_type: str) -> None:
    first = tune(plan(base, tuning_type=tuning_type), base)
    torch.manual_seed(12345)
    torch.rand(7)
    state = torch.get_rng_state()
    second = tune(plan(base, tuning_type=tuning_type), base)
    other = tune(plan(base, tuning_type=tuning_type, seed=74), base)
    for part, tensor in first.prompt.tensors.items():
        assert torch.equal(tensor, second.prompt.tensors[part])
        assert not torch.equal(tensor, other.prompt.tensors[part])
    assert losses(first) == losses(second)
    assert torch.equal(state, torch.get_rng_state())


def test_progress_counts_updates_and_has_an_eta(base: BaseModel) -> None:
    seen: list[Progress] = []
    tune(plan(base), base, seen.append)
    assert [progress.step for progress in seen] == list(range(1, 11))
    assert {progress.steps for progress in seen} == {10}
    assert seen[-1].eta_seconds == 0
    assert seen[4].eta_seconds == pytest.approx(seen[4].seconds)


def test_a_validation_loss_is_the_mean_over_all_target_tokens(base: BaseModel) -> None:
    request = {"base_model": base.checkpoint.name, "num_virtual_tokens": 3, "num_epochs": 1, "batch_size": 3}
    planned = make_plan(request, RECORDS.items, RECORDS.items[:7], SETTINGS)
    tuned = tune(planned, base)
    examples = make_examples(Records(RECORDS.items[:7], False), base.text, planned.parameters)
    whole = examples.batch(list(range(7)))
    with torch.no_grad():
        rows = base.training.padded_targets([tuned.prompt.tensors] * 7, whole).losses()
    expected = float(rows.sum()) / whole.target_tokens
    assert losses(tuned, "validation_loss") == [pytest.approx(expected, rel=1e-5)]


def test_a_gradient_that_is_no_number_ends_the_training_too(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last update's gradient shows in no later loss: a prompt of NaN was published."""

    def finite_loss_infinite_gradient(prompts: Any, *_: Any) -> Any:
        rows = torch.stack([tensor.sum() for prompt in prompts for tensor in prompt.values()])
        # The root of zero: its gradient is infinite, and times zero no number.
        losses = 1 + (rows * 0).clamp(min=0).sqrt()
        return SimpleNamespace(losses=lambda: losses)

    monkeypatch.setattr(trials, "check_training", lambda *_: None)
    monkeypatch.setattr(llama.training, "trains_packed", False)
    monkeypatch.setattr(llama.training, "padded_targets", finite_loss_infinite_gradient)
    with pytest.raises(TrainingDiverged, match="gradient is not finite"):
        tune(plan(llama, num_epochs=5, batch_size=10), llama)


def test_a_loss_that_is_no_number_ends_the_training(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = llama.training.padded_targets

    def no_number(*arguments: Any) -> Any:
        targets = real(*arguments)
        return replace(targets, logits=targets.logits * math.nan)

    monkeypatch.setattr(trials, "check_training", lambda *_: None)
    monkeypatch.setattr(llama.training, "trains_packed", False)
    monkeypatch.setattr(llama.training, "padded_targets", no_number)
    with pytest.raises(TrainingDiverged, match=r"loss is not finite at update 5 of 10.*learning_rate"):
        tune(plan(llama), llama)
