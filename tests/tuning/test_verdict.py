"""What is told of a training, in the artifact and in a status."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import caikit
import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.module import PeftPromptTuning
from caikit_pt.tuning.course import FLAT
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.verdict import sentences

from .training import PAIRS, plan, spoilt

HELD_OUT = PAIRS[12:]


def saved(model: PeftPromptTuning, directory: Path) -> dict[str, Any]:
    """The verdict in verdict.json, read without caikit."""
    model.save(str(directory))
    found: dict[str, Any] = json.loads((directory / "verdict.json").read_text())
    return found


def all_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list):
        return all(map(all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_a_verdict_is_saved_and_read_back(base: BaseModel, tmp_path: Path) -> None:
    model = PeftPromptTuning(tune(plan(base, PAIRS, HELD_OUT, num_epochs=5), base), base)
    verdict = model.tuned.verdict
    assert saved(model, tmp_path / "model") == verdict
    assert caikit.load(str(tmp_path / "model")).tuned.verdict == verdict
    json.dumps(verdict, allow_nan=False)
    assert verdict["course"] in ("flat", "still improving", "settled", "diverged")
    assert set(verdict["kept"]) == {"epoch", "step", "mean_of"}
    assert verdict["skipped_updates"] == 0
    assert (verdict["validation_records"], verdict["answers"]) == (8, 8)
    assert list(verdict["validation"]) == ["untuned", "initial", "tuned"]
    for scores in verdict["validation"].values():
        assert set(scores) == {"loss", "perplexity", "accuracy", "macro_f1", "calibration_error"}
        for name in ("loss", "accuracy", "macro_f1"):
            assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
        assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]["value"]))
    losses = {name: scores["loss"]["value"] for name, scores in verdict["validation"].items()}
    assert losses["tuned"] < min(losses["untuned"], losses["initial"])
    outcome, (tuned, untuned) = (
        verdict["outcome"],
        (verdict["validation"][name]["accuracy"]["value"] for name in ("tuned", "untuned")),
    )
    assert (outcome["metric"], outcome["records"]) == ("accuracy", 8)
    assert (outcome["tuned"], outcome["untuned"]["value"]) == (tuned, untuned)
    assert outcome["majority"]["value"] == 0.5
    assert sentences(verdict)[0] == f"{outcome['sentence']} {outcome['next']}"


def test_nearest_words_are_told_of_each_virtual_token_of_each_side(t5: BaseModel) -> None:
    both = tune(plan(t5, validation=HELD_OUT, output_model_types=["ENCODER", "DECODER"]), t5).verdict
    assert set(both["nearest_words"]) == {"ENCODER", "DECODER"}
    for words in both["nearest_words"].values():
        assert [len(of_token) for of_token in words] == [3] * 4
    assert set(both["validation"]) == {"untuned", "initial", "tuned"}


def test_without_validation_records_there_is_no_comparison(base: BaseModel) -> None:
    verdict = tune(plan(base), base).verdict
    assert set(verdict) == {"outcome", "course", "kept", "skipped_updates", "nearest_words"}
    assert verdict["course"] == FLAT
    assert verdict["outcome"]["found"] == "unknown"
    assert sentences(verdict) == [
        "Whether the prompt is better than the untuned base isn't known: there were no validation records. "
        "The loss didn't clearly fall; few updates tell little: try more num_epochs or search auto.",
        "The course of the loss: flat. Kept is the prompt after epoch 2, update 4.",
    ]


def test_one_validation_record_has_no_interval_and_all_is_finite(base: BaseModel, tmp_path: Path) -> None:
    model = PeftPromptTuning(tune(plan(base, validation=PAIRS[-1:]), base), base)
    verdict = saved(model, tmp_path / "model")
    assert verdict["validation_records"] == 1
    loss = verdict["validation"]["tuned"]["loss"]
    assert loss["low"] is None is loss["high"]
    assert math.isfinite(loss["value"])
    assert all_finite(verdict)
    (first, _, line) = sentences(verdict)
    assert "by 1 validation records" in first
    assert line.startswith("On 1 validation records: ")
    assert f"loss {loss['value']:.3f} [?, ?] with the tuned prompt" in line


def test_a_loss_that_is_no_number_stays_out_of_the_files(llama: BaseModel, tmp_path: Path) -> None:
    """Only here: the validation itself overflows, and nothing of it may be NaN in JSON."""
    tuned = tune(
        plan(llama, validation=HELD_OUT),
        llama,
        losses=lambda base, prompts, batch: torch.full((len(batch.sources),), math.nan),
    )
    model = PeftPromptTuning(tuned, llama)
    verdict = saved(model, tmp_path / "model")
    assert all_finite(verdict)
    assert verdict["course"] == "diverged"
    assert verdict["validation"]["tuned"]["loss"]["value"] is None
    assert verdict["validation"]["tuned"]["perplexity"] is None
    assert verdict["kept"] == {"epoch": 2, "step": 4}
    said = "loss ? [?, ?] with the tuned prompt, ? with the initial one, ? without"
    assert said in sentences(verdict)[-1]


def test_skipped_updates_are_told(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    def spoil(update: int, learner: Learner, loss: torch.Tensor) -> torch.Tensor:
        return loss * math.nan if update in (2, 3) else loss

    verdict = tune(plan(base), base, gradients=spoilt(gradients, spoil)).verdict
    assert verdict["skipped_updates"] == 2
    assert any(line.startswith("2 updates were skipped") for line in sentences(verdict))
    assert "the loss is not finite at update 2 of 4, which is skipped" in caplog.text


def test_the_verdict_is_logged(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        verdict = tune(plan(base, validation=HELD_OUT), base).verdict
    for line in sentences(verdict):
        assert line in caplog.messages


def test_no_verdict_no_words() -> None:
    """Prompts that were saved before there was one."""
    assert sentences({}) == []
