"""Successive halving: who is tried, who goes on, and that nobody is harmed by the others."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.errors import TrainingDiverged
from caikit_pt.settings import Settings
from caikit_pt.tuning.contest import survivors
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.search import Search, candidates, judged_from, rungs
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import JUDGED, Validation
from caikit_pt.tuning.verdict import sentences

from .training import PAIRS, curve, plan, spoilt

AUTO: dict[str, Any] = {"search": "auto", "num_virtual_tokens": None, "learning_rate": None}
MPT = "MULTITASK_PROMPT_TUNING"


# ---- the arithmetic ----


def test_the_better_half_goes_on() -> None:
    assert rungs(12, 120) == {10: 6, 20: 3, 40: 1}
    assert rungs(8, 80) == {10: 4, 20: 2, 40: 1}
    assert rungs(8, 100) == {13: 4, 25: 2, 50: 1}
    assert rungs(4, 100) == {25: 2, 50: 1}
    assert rungs(2, 100) == {50: 1}
    assert rungs(5, 100) == {20: 2, 40: 1}
    assert rungs(3, 99) == {33: 1}
    assert rungs(1, 100) == {}


@pytest.mark.parametrize("count", range(1, 13))
@pytest.mark.parametrize("updates", [1, 2, 3, 5, 8, 20, 77, 1000])
def test_one_is_left_at_the_latest_after_half_of_few_updates(count: int, updates: int) -> None:
    left = rungs(count, updates)
    assert list(left) == sorted(left)
    assert list(left.values()) == sorted(left.values(), reverse=True)
    assert all(1 <= step <= updates for step in left)
    if count > 1:
        assert next(reversed(left.values())) == 1


@pytest.mark.parametrize(("task", "trainings"), [("generation", 2.5), ("classification", 2.67)])
def test_a_search_costs_less_than_three_trainings(llama: BaseModel, task: str, trainings: float) -> None:
    """Counted in the updates of all candidates."""
    made = [0]

    def counted(base: BaseModel, learners: Sequence[Learner], batches: Any) -> list[torch.Tensor]:
        made[0] += len(learners)
        return gradients(base, learners, batches)

    asked = {**AUTO, "tuning_task": task, "num_epochs": 30}
    tune(plan(llama, PAIRS, PAIRS[:4], **asked), llama, gradients=counted)
    assert made[0] == pytest.approx(trainings * 120, rel=0.01)


# ---- the candidates ----


def test_without_a_search_there_is_one(llama: BaseModel) -> None:
    parameters = plan(llama).parameters
    assert candidates(parameters, {}) == [parameters]


def test_the_first_is_what_would_be_trained_without_a_search(llama: BaseModel) -> None:
    parameters = plan(llama, **AUTO).parameters
    first, *others = candidates(parameters, {})
    assert first == parameters
    assert len(others) == 9
    assert len({_varied(one) for one in (first, *others)}) == 10
    assert {one.num_virtual_tokens for one in others} == {100, 20}
    assert {one.prompt_tuning_init_method for one in others} == {"RANDOM", "SAMPLE_VOCAB"}


def test_labels_are_one_more_start(llama: BaseModel) -> None:
    planned = plan(llama, **AUTO, tuning_task="classification")
    tried = candidates(planned.parameters, planned.limits, planned.labels)
    assert len(tried) == 12
    from_labels = [one for one in tried if one.prompt_tuning_init_method == "TEXT"]
    assert {one.learning_rate for one in from_labels} == {0.3, 0.1}
    for one in from_labels:
        assert one.prompt_tuning_init_text == ", ".join(planned.labels)
        assert one.origins["prompt_tuning_init_text"] == "search"


def test_a_text_that_the_request_names_is_what_a_prompt_starts_from(llama: BaseModel) -> None:
    asked = {**AUTO, "tuning_task": "classification", "prompt_tuning_init_text": "how is it"}
    planned = plan(llama, **asked)
    tried = candidates(planned.parameters, planned.limits, planned.labels)
    assert len(tried) == 12
    assert {one.prompt_tuning_init_text for one in tried} == {"how is it"}
    assert {one.origins["prompt_tuning_init_text"] for one in tried} == {"request"}


def test_rates_are_steps_of_three_on_both_sides(llama: BaseModel) -> None:
    rates = {one.learning_rate for one in candidates(plan(llama, **AUTO).parameters, {})}
    assert {0.9, 0.3, 0.1, 0.0333} <= rates


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        ({"learning_rate": 0.1}, 3),
        ({"num_virtual_tokens": 5}, 7),
        ({"num_virtual_tokens": 5, "learning_rate": 0.1}, 2),
        ({"prompt_tuning_init_method": "RANDOM"}, 8),
        ({"prompt_tuning_init_method": "TEXT", "prompt_tuning_init_text": "how is it"}, 8),
        (
            {"prompt_tuning_init_method": "RANDOM", "num_virtual_tokens": 5, "learning_rate": 0.1},
            1,
        ),
    ],
)
def test_what_a_request_names_stays_and_nobody_is_there_twice(
    llama: BaseModel, request_: dict[str, Any], count: int
) -> None:
    tried = candidates(plan(llama, **{**AUTO, **request_}).parameters, {})
    assert len(tried) == len({_varied(one) for one in tried}) == count
    for one in tried:
        assert {name: getattr(one, name) for name in request_} == request_
        assert all(one.origins[name] == "request" for name in request_)


def test_nothing_is_tried_that_the_operator_does_not_allow(llama: BaseModel) -> None:
    limits = {"learning_rate": (0.05, 0.5), "num_virtual_tokens": (50.0, 100.0)}
    tried = candidates(plan(llama, **AUTO).parameters, limits)
    assert len(tried) == len({_varied(one) for one in tried}) > 3
    for one in tried:
        assert 0.05 <= one.learning_rate <= 0.5
        assert 50 <= one.num_virtual_tokens <= 100


def test_a_task_rate_goes_with_the_rate_and_neither_leaves_its_range(llama: BaseModel) -> None:
    tried = candidates(plan(llama, **{**AUTO, "tuning_type": MPT}).parameters, {})
    for one in tried:
        assert one.task_learning_rate == pytest.approx(one.learning_rate / 30)
    fixed = candidates(plan(llama, **{**AUTO, "tuning_type": MPT, "task_learning_rate": 0.5}).parameters, {})
    assert {one.task_learning_rate for one in fixed} == {0.5}
    presets = ({"base_model": "*", "tasks": {"default": {"learning_rate": 9.0}}},)
    settings = Settings(base_models_dir=str(llama.checkpoint.directory.parent), tuning_presets=presets)
    high = make_plan({"base_model": llama.checkpoint.name, "search": "auto"}, PAIRS, None, settings)
    assert max(one.learning_rate for one in candidates(high.parameters, {})) == 10


def test_a_source_prompt_keeps_its_start_and_its_length(t5: BaseModel, source_prompts: Path) -> None:
    settings = Settings(
        base_models_dir=str(t5.checkpoint.directory.parent), source_prompt_base=str(source_prompts)
    )
    request = {
        "base_model": t5.checkpoint.name,
        "tuning_type": MPT,
        "prompt_tuning_init_method": "AVERAGE_SOURCE",
        "search": "auto",
        "num_epochs": 2,
    }
    planned = make_plan(request, PAIRS, None, settings)
    tried = candidates(planned.parameters, {})
    assert len(tried) > 1
    assert {one.prompt_tuning_init_method for one in tried} == {"AVERAGE_SOURCE"}
    assert {one.num_virtual_tokens for one in tried} == {6}
    assert tune(planned, t5).prompt.num_virtual_tokens == 6


# ---- the race ----


def test_the_first_candidate_trains_in_company_as_it_does_alone(base: BaseModel) -> None:
    exact = POOL.get(base.checkpoint, "float64", "cpu")
    # Adam's first steps are the gradient's sign: next to zero, a rounding error would be a whole step.
    request = {"num_epochs": 10, "optimizer": "adafactor"}
    alone = tune(plan(base, PAIRS, PAIRS[:4], num_virtual_tokens=None, **request), exact)
    seen: list[Progress] = []
    tune(plan(base, PAIRS, PAIRS[:4], **AUTO, **request), exact, seen.append)
    # The first rung comes with update 40 / 10, and what is told is then of the best.
    assert [progress.loss for progress in seen[:3]] == pytest.approx(curve(alone)[:3], rel=1e-5)


def test_the_winner_is_at_least_as_good_as_the_first(base: BaseModel) -> None:
    """With a default that hardly moves, another has to win; the artifact says what was searched."""
    presets = ({"base_model": "*", "tasks": {"default": {"learning_rate": 1e-4}}},)
    settings = Settings(base_models_dir=str(base.checkpoint.directory.parent), tuning_presets=presets)
    request = {"base_model": base.checkpoint.name, "num_epochs": 6, "num_virtual_tokens": 5}
    alone = tune(make_plan(request, PAIRS, PAIRS[:6], settings), base)
    found = tune(make_plan({**request, "search": "auto"}, PAIRS, PAIRS[:6], settings), base)
    tuned_loss = [one.verdict["validation"]["tuned"]["loss"]["value"] for one in (found, alone)]
    assert tuned_loss[0] < tuned_loss[1]
    parameters = found.tuning_parameters
    assert "search" in parameters["origins"].values()
    assert parameters["origins"]["num_virtual_tokens"] == "request"
    assert parameters["search"] == "auto"


def test_the_verdict_keeps_what_was_tried(llama: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    """Also of those that were dropped."""
    planned = plan(llama, PAIRS, PAIRS[:4], num_epochs=5, **AUTO)
    with caplog.at_level("INFO"):
        tuned = tune(planned, llama)
    trials = tuned.verdict["search"]
    assert json.loads(json.dumps(trials, allow_nan=False)) == trials
    tried = candidates(planned.parameters, planned.limits, planned.labels)
    names = ("learning_rate", "prompt_tuning_init_method", "num_virtual_tokens")
    assert [tuple(trial[name] for name in names) for trial in trials] == [_varied(one) for one in tried]
    reached = [[at["step"] for at in trial["losses"]] for trial in trials]
    assert sorted(reached) == sorted([[2]] * 6 + [[2, 4]] * 3 + [[2, 4, 7]] * 3)
    assert all(math.isfinite(at["loss"]) for trial in trials for at in trial["losses"])
    (kept,) = (trial for trial in trials if trial["kept"])
    assert [at["loss"] for at in kept["losses"]] == curve(tuned, "search_loss")
    assert kept["learning_rate"] == tuned.tuning_parameters["learning_rate"]
    (line,) = (line for line in sentences(tuned.verdict) if "candidates" in line)
    assert line.startswith(f"Of 12 candidates the search kept learning_rate {kept['learning_rate']:g}, ")
    assert line in caplog.messages


def test_a_long_validation_stream_costs_a_search_no_more(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rungs judge by a draw of it, the same at each; afterwards all of it counts."""
    judged: list[tuple[int, Any]] = []
    real = Validation.row_losses

    def counted(validation: Validation, prompts: Any) -> Any:
        judged.append((len(prompts), validation._records))
        return real(validation, prompts)

    monkeypatch.setattr(Validation, "row_losses", counted)
    stream = [{**PAIRS[n % 20], "input": f"{n} {PAIRS[n % 20]['input']}"} for n in range(JUDGED + 20)]
    tune(plan(llama, PAIRS, stream, num_epochs=1, **AUTO), llama)
    rungs_ = [records for count, records in judged if count > 1]
    assert {len(records) for records in rungs_} == {JUDGED}
    assert all(records == rungs_[0] for records in rungs_)
    assert {record.output for record in rungs_[0].items[:50]} == {"good", "bad"}
    assert {len(records) for count, records in judged if count == 1} == {JUDGED + 20}


def test_a_candidate_that_diverges_is_dropped(base: BaseModel) -> None:
    """The first one, whose curve a progress bar shows: the others go on."""
    firsts: list[Learner] = []

    def spoil(update: int, learner: Learner, loss: torch.Tensor) -> torch.Tensor:
        if update == 1:
            firsts.append(learner)
        return loss * math.nan if learner is firsts[0] else loss

    planned = plan(base, PAIRS, PAIRS[:4], num_epochs=18, **AUTO)
    tuned = tune(planned, base, gradients=spoilt(gradients, spoil))
    assert len(firsts) == 12
    assert len(curve(tuned)) == 72
    assert tuned.verdict["skipped_updates"] == 0
    first, *others = tuned.verdict["search"]
    assert (first["losses"], first["kept"]) == ([], False)
    assert all(one["losses"] for one in others)
    assert "search" in tuned.tuning_parameters["origins"].values()


@pytest.mark.parametrize("survivors", [0, 1])
def test_when_nearly_all_diverge_one_is_enough_and_none_is_an_error(base: BaseModel, survivors: int) -> None:
    known: list[Learner] = []

    def spoil(update: int, learner: Learner, loss: torch.Tensor) -> torch.Tensor:
        if learner not in known:
            known.append(learner)
        return loss if known.index(learner) >= 12 - survivors else loss * math.nan

    planned = plan(base, PAIRS, PAIRS[:4], num_epochs=18, **AUTO)
    compute = spoilt(gradients, spoil)
    if survivors:
        assert len(curve(tune(planned, base, gradients=compute))) == 72
    else:
        with pytest.raises(TrainingDiverged, match="loss is not finite at update 5 of 72"):
            tune(planned, base, gradients=compute)


def test_rates_that_are_far_too_high_cost_no_more_than_their_own_candidate(base: BaseModel) -> None:
    presets = ({"base_model": "*", "tasks": {"default": {"learning_rate": 10.0}}},)
    settings = Settings(base_models_dir=str(base.checkpoint.directory.parent), tuning_presets=presets)
    request = {"base_model": base.checkpoint.name, "num_epochs": 8, "search": "auto", "num_virtual_tokens": 5}
    found = tune(make_plan(request, PAIRS, PAIRS[:6], settings), base)
    loss = {name: scores["loss"]["value"] for name, scores in found.verdict["validation"].items()}
    assert loss["tuned"] < loss["untuned"] / 2


ROWS = [1.0, 2.0, 1.5, 2.5]


@pytest.mark.parametrize(
    ("plain", "left", "kept"),
    [
        # Better, and as good but for noise: it goes on.
        ([0.5, 0.5, 0.5, 0.5], 1, [0]),
        ([0.9, 2.3, 1.6, 2.4], 1, [0]),
        # Worse on every record by much the same: it doesn't. Where there is room for it, it does.
        ([1.2, 2.2, 1.7, 2.7], 1, [1]),
        ([1.2, 2.2, 1.7, 2.7], 2, [1, 0]),
        # Twice as much, if only because of one record.
        ([1.0, 2.0, 1.5, 20.0], 1, [1]),
        ([math.nan, 2.0, 1.5, 2.5], 1, [1]),
    ],
)
def test_what_would_be_trained_anyway_is_dropped_only_for_what_is_clearly_better(
    plain: list[float], left: int, kept: list[int]
) -> None:
    rows = [plain, ROWS, [9.0, 9.0, 9.0, 9.0]]
    losses = [math.fsum(row) / 4 for row in rows]
    assert survivors(rows, losses, left, favoured=0, errors=Search.errors) == kept
    # Without the doubt the lowest loss counts alone.
    expected = sorted(
        range(3), key=lambda number: math.inf if losses[number] != losses[number] else losses[number]
    )
    assert survivors(rows, losses, left, favoured=None, errors=Search.errors) == expected[:left]


def test_a_rung_judges_the_mean_since_half_way() -> None:
    assert judged_from({10: 4, 20: 2, 40: 1}) == {6, 16, 31}
    assert judged_from({1: 1}) == {1}


def _varied(one: Any) -> tuple[float, str, int]:
    return one.learning_rate, one.prompt_tuning_init_method, one.num_virtual_tokens
