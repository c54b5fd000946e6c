"""When a training is validated, and when it stops early."""

from __future__ import annotations

import math
from typing import Any

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.estimate import Estimate
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Scores, Validation

from .training import CONTRADICTING, HELD_OUT, PAIRS, curve, plan


@pytest.mark.parametrize(
    ("request_", "steps"),
    [({}, [2, 4, 6]), ({"validation_steps": 4}, [4, 6]), ({"validation_steps": 5}, [5, 6])],
)
def test_validations_come_after_every_epoch_or_every_so_many_updates(
    base: BaseModel, request_: dict[str, Any], steps: list[int]
) -> None:
    told: list[Validated] = []
    planned = plan(base, validation=HELD_OUT, num_epochs=3, **request_)
    tuned = tune(planned, base, on_validation=told.append)
    seen = [entry["data"]["step"] for entry in tuned.training_logs if entry["name"] == "validation_loss"]
    assert seen == steps
    for name in ("validation_perplexity", "validation_accuracy", "validation_macro_f1"):
        assert len(curve(tuned, name)) == len(steps)
    assert curve(tuned, "validation_perplexity") == pytest.approx(
        [math.exp(loss) for loss in curve(tuned, "validation_loss")]
    )
    assert [one.step for one in told] == steps
    assert [one.scores["loss"] for one in told] == curve(tuned, "validation_loss")
    assert [one.scores["macro_f1"] for one in told] == curve(tuned, "validation_macro_f1")
    # Of labels the last may be kept, too (choice.py).
    best = next(one for one in reversed(told) if one.best).step
    assert tuned.verdict["kept"]["step"] in (best, steps[-1])


def test_no_validation_records_no_validation(base: BaseModel) -> None:
    tuned = tune(plan(base), base)
    assert {entry["name"] for entry in tuned.training_logs} == {"loss"}
    assert "validation" not in tuned.verdict
    assert tuned.verdict["kept"] == {"epoch": 2, "step": 4}


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_a_training_ends_after_so_many_validations_without_a_better_loss(
    llama: BaseModel, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([5.0, 4.0, 4.5, 3.0, 3.0, math.nan, 3.5, 2.0, 2.5, 2.4])

    def scripted(self: Validation, prompt: Any, *_: Any) -> Scores:
        value = next(script, 1.0)
        return Scores(Estimate(value, value, value), {})

    monkeypatch.setattr(Validation, "scores", scripted)
    asked: dict[str, Any] = {
        "num_epochs": 8,
        "early_stopping_patience": patience,
        "tuning_task": "generation",
    }
    planned = plan(llama, validation=HELD_OUT, **asked)
    tuned = tune(planned, llama)
    # Without patience all eight epochs; with one it is the third that is worse; with two the sixth; with
    # three the seventh.
    ended = {0: 8, 1: 3, 2: 6, 3: 7}[patience]
    best = {0: 8, 1: 2, 2: 4, 3: 4}[patience]
    assert len(curve(tuned, "validation_loss")) == ended
    assert len(curve(tuned)) == 2 * ended
    assert tuned.verdict["kept"] == {"epoch": best, "step": 2 * best}


def test_early_stopping_of_a_real_training(base: BaseModel) -> None:
    planned = plan(base, PAIRS, CONTRADICTING, num_epochs=20, early_stopping_patience=2)
    tuned = tune(planned, base)
    seen = curve(tuned, "validation_loss")
    assert len(seen) == seen.index(min(seen)) + 3 < 20
