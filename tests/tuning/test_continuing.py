"""A training that goes on from a tuned prompt: where it begins, and that it never ends worse."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.initial import Predecessor
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Validation
from caikit_pt.tuning.verdict import sentences
from tests.soft_prompt.test_initial import continued, predecessor
from tests.tuning.test_snapshot import Interrupting, same
from tests.tuning.training import curve, weights_of

QUICK: dict[str, Any] = {"num_epochs": 2, "batch_size": 6}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "multitask": {"tuning_type": "MULTITASK_PROMPT_TUNING"},
    "residual": {"reparameterization": "residual"},
    "adafactor": {"optimizer": "adafactor"},
}


def equal(one: SoftPrompt, other: SoftPrompt) -> bool:
    """Bit for bit."""
    return set(one.tensors) == set(other.tensors) and all(
        torch.equal(rows.view(torch.int32), other.tensors[part].view(torch.int32))
        for part, rows in one.tensors.items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_same_bits(base: BaseModel, kind: str) -> None:
    before = predecessor(base)
    plan = continued(before, **KINDS[kind])
    candidate = Candidate.begin(base, plan.parameters, plan.source, 1, plan.initial)
    assert equal(candidate.initial, before.tuned.prompt)
    assert equal(candidate.learner.prompt.finished(), before.tuned.prompt)
    assert candidate.initial.tensors.keys() == before.tuned.prompt.tensors.keys()


def test_it_begins_where_the_other_has_ended(base: BaseModel) -> None:
    """And so does a third, from the second."""
    first = tune(continued(predecessor(base), **QUICK), base)
    seen: list[Validated] = []
    second = tune(continued(Predecessor("first", first), **QUICK), base, on_validation=seen.append)
    ended = first.verdict["validation"]["tuned"]["loss"]
    assert second.verdict["validation"]["initial"]["loss"] == ended
    assert (seen[0].epoch, seen[0].step, seen[0].scores["loss"], seen[0].best) == (0, 0, ended["value"], True)
    assert curve(second, "validation_loss") == [one.scores["loss"] for one in seen]
    told = second.tuning_parameters
    assert told["prompt_tuning_init_prompt"] == "first"
    assert told["prompt_tuning_init_prompt_sha256"] == Predecessor("any", first).initial.sha256


@pytest.mark.parametrize("search", ["off", "auto"])
def test_it_never_ends_worse(llama: BaseModel, search: str) -> None:
    """With updates that only go uphill, the prompt that it began with is what it ends with."""

    def uphill(base: BaseModel, learners: Sequence[Learner], batches: Sequence[Any]) -> list[torch.Tensor]:
        losses = gradients(base, learners, batches)
        for learner in learners:
            for weight in weights_of(learner.prompt):
                assert weight.grad is not None
                weight.grad.neg_()
        return losses

    before = predecessor(llama)
    found = tune(continued(before, **QUICK, search=search), llama, gradients=uphill)
    assert found.verdict["kept"] == {"epoch": 0, "step": 0}
    assert any("Kept is the prompt that it went on from" in one for one in sentences(found.verdict))
    assert equal(found.prompt, before.tuned.prompt)


@pytest.mark.parametrize(("mean", "lowest"), [(0, 0), (2, 1), (1, 2)])
def test_a_mean_is_kept_only_where_more_is_right(
    llama: BaseModel, mean: int, lowest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an update in between had a lower loss than the prompt that it began with."""
    answers = iter([[1.0] * count + [0.0] * (3 - count) for count in (mean, lowest)])
    monkeypatch.setattr(Validation, "right", lambda *_: next(answers))
    before = predecessor(llama, labels=("bad", "good"))
    kept = tune(continued(before, **QUICK, tuning_task="classification"), llama).verdict["kept"]
    assert ("mean_of" in kept) == (mean > lowest)


def test_a_search_varies_only_rates(base: BaseModel) -> None:
    found = tune(continued(predecessor(base), **QUICK, search="auto"), base)
    trials = found.verdict["search"]
    assert len({trial["learning_rate"] for trial in trials}) == len(trials) > 2
    assert {(one["prompt_tuning_init_method"], one["num_virtual_tokens"]) for one in trials} == {
        ("TUNED_PROMPT", 5)
    }


@pytest.mark.parametrize("search", ["off", "auto"])
def test_it_goes_on_after_an_interruption(llama: BaseModel, search: str, tmp_path: Path) -> None:
    plan = continued(predecessor(llama), **QUICK, search=search)
    whole = tune(plan, llama)
    snapshots = Interrupting(tmp_path, set(), 2, gracefully=True)
    with pytest.raises(TrainingInterrupted):
        tune(plan, llama, snapshots.saw, snapshots=snapshots)
    assert same(tune(plan, llama, snapshots=Snapshots(tmp_path, 1e9)), whole)


def test_without_records_to_validate_with_there_is_nothing_to_choose_by(llama: BaseModel) -> None:
    plan = dataclasses.replace(continued(predecessor(llama), **QUICK), validation=None)
    assert tune(plan, llama).verdict["kept"]["step"] == 4
