"""The bench of quality judges by what it says it judges by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.quality.__main__ import main
from bench.quality.contender import (
    CONTENDERS,
    DEFAULTS,
    GRID,
    GRID_COLUMN,
    MAJORITY,
    PEFT,
    PEFT_COLUMN,
    REQUESTS,
    SEARCH,
    SEPARATORS,
    TF_IDF,
)
from bench.quality.figures import Figures, missing
from bench.quality.mean import difference, mean
from bench.quality.outsiders import majority, tf_idf
from bench.quality.peft_loop import PeftLoop
from bench.quality.results import Results
from bench.quality.run import of_part
from bench.quality.table import Row, by_records, costs, quality, separators
from bench.quality.task import Record, Task, held_out_tasks, left_out, real_tasks, unspeakable
from bench.quality.trial import Attempt, Outcome, Trial, accuracy, deciding
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import initial_prompt
from caikit_pt.soft_prompt.prompt import PlainPrompt
from caikit_pt.tuning.examples import Example, make_examples
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.plan import TuningPlan, make_plan
from tests.numerics.references import uses_peft
from tests.numerics.tunings import start_of

MODEL, NAME, RECORDS = "model", "task", 200
SPOKEN = {"input": "a", "output": "red"}
UNSPOKEN = {"input": "b", "output": "\u6f22\u5b57"}
# That of the grid which the selection records choose, and that which the test records would.
CHOSEN, LUCKY = "0.1 RANDOM 20", "1.0 RANDOM 100"
COLOURS = ("red", "green", "blue")


def some(count: int, begin: str = "") -> tuple[Record, ...]:
    """Records of three labels and of many lengths."""
    return tuple(
        {"input": f"{begin}{'word ' * (1 + 5 * number % 9)}{number}", "output": COLOURS[number % 3]}
        for number in range(count)
    )


def a_task(test: int = 500, pool: int = RECORDS) -> Task:
    return Task(NAME, some(pool), some(6, "chosen by "), some(test, "scored on "))


def outcomes(accuracies: Mapping[str, float], seed: int = 1, seconds: float = 10.0) -> list[Outcome]:
    """All trials of a seed. Of the grid, CHOSEN has 0.9 by either judge, and all others 0.5 or less."""
    known = {**dict.fromkeys(CONTENDERS, 0.5), CHOSEN: 0.9, **accuracies}
    return [
        Outcome(
            Trial("" if name in (MAJORITY, TF_IDF) else MODEL, NAME, name, seed, RECORDS, 500),
            "basis",
            accuracy,
            seconds * (2.5 if name == SEARCH else 1.0),
            selected=0.9 if name == CHOSEN else 0.5,
            validation_loss=0.1 if name == LUCKY else 0.2,
        )
        for name, accuracy in known.items()
    ]


def row(found: Sequence[Outcome], task: Task | None = None) -> Row:
    return Row(Figures(found), MODEL, task or a_task(), RECORDS)


# ---- what is compared ----


def test_the_grid_has_twelve_points_of_parameters_that_there_are() -> None:
    assert len(GRID) == 12
    assert len({tuple(request.items()) for request in GRID.values()}) == 12
    for request in REQUESTS.values():
        for name, value in request.items():
            assert TUNING_PARAMETERS[name].check(value) == value


def test_the_grid_is_chosen_by_other_records_than_it_is_scored_on() -> None:
    """The point that the test records like best is not the one that they score."""
    found = row(outcomes({CHOSEN: 0.7, LUCKY: 0.95}))
    assert found.points(GRID_COLUMN) == {1: pytest.approx(70)}


@uses_peft
def test_selection_records_judge_those_among_which_a_choice_is_made(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_task(test=9, pool=12)
    judged: list[Sequence[Record]] = []

    def as_many_as_there_are(
        _base: BaseModel, _plan: TuningPlan, _prompt: object, records: Sequence[Record]
    ) -> float:
        judged.append(records)
        return len(records) / 100

    monkeypatch.setattr("bench.quality.trial.accuracy", as_many_as_there_are)
    also = {"num_epochs": 1}
    for contender in (CHOSEN, next(iter(PEFT)), DEFAULTS):
        outcome = Attempt(Trial("tiny-llama", NAME, contender, 1, 12, 9), task, llama, also).make()
        assert outcome.accuracy == 0.09
        assert outcome.selected == (None if contender == DEFAULTS else 0.06)
        assert outcome.seconds > 0
    assert [len(records) for records in judged] == [9, 6, 9, 6, 9]
    assert all(set(map(str, records)).isdisjoint(map(str, task.pool)) for records in judged)


def test_answers_are_confined_to_the_labels_that_were_trained_on(base: BaseModel) -> None:
    """With a prompt that never learnt anything: it says the one label that there is, and no other."""
    red = [{**record, "output": "red"} for record in some(8)]
    asked = {"base_model": base.checkpoint.name, "tuning_task": "classification", "num_virtual_tokens": 2}
    plan = make_plan(asked, red, None, Settings(), base)
    prompt = initial_prompt(start_of(plan, base))
    assert accuracy(base, plan, prompt, red) == 1.0
    assert accuracy(base, plan, prompt, [{**record, "output": "blue"} for record in red]) == 0.0


def test_what_diverges_answers_nothing(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise TrainingDiverged("The loss is not finite.")

    monkeypatch.setattr("bench.quality.trial.tune", diverge)
    outcome = Attempt(Trial("tiny-llama", NAME, CHOSEN, 1, 12, 9), a_task(9, 12), llama).make()
    assert (outcome.accuracy, outcome.selected, outcome.validation_loss) == (0.0, 0.0, None)
    assert outcome.chosen == "diverged"


def test_outsiders_learn_what_can_be_learnt() -> None:
    train = [
        {"input": f"{word} {number}", "output": label}
        for number in range(8)
        for word, label in (("warm", "summer"), ("cold", "winter"), ("cold", "winter"))
    ]
    assert majority(train, ["warm", "cold"]) == ["winter", "winter"]
    assert majority([{"input": "", "output": label} for label in "bbaa"], ["x"]) == ["a"]
    assert tf_idf(train, ["so warm", "too cold"]) == ["summer", "winter"]
    assert tf_idf(train[:1], ["too cold"]) == ["summer"]


# ---- means over seeds ----


def test_means_and_differences_are_over_seeds() -> None:
    """By hand: of 1, 2, 6 the deviation is 7 ** 0.5, and the error that over 3 ** 0.5."""
    found = mean([1.0, 2.0, 6.0])
    assert found
    assert found.value == pytest.approx(3)
    assert found.error == pytest.approx((7 / 3) ** 0.5)
    assert (str(found), found.signed) == ("3.0 ± 1.5", "+3.0 ± 1.5")
    assert str(mean([4.0])) == "4.0"
    assert mean([]) is None
    # Seeds in which both rise and fall together: their difference is far surer than either.
    paired = difference({1: 50.0, 2: 60.0, 3: 70.0}, {1: 51.0, 2: 61.0, 3: 73.0, 4: 99.0})
    assert paired
    assert paired.value == pytest.approx(-5 / 3)
    assert paired.error == pytest.approx(2 / 3)
    assert paired.signed == "-1.7 ± 0.7"
    assert difference({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize(
    ("defaults", "search", "met", "found"),
    [
        # The means decide: 1 point and 3 behind are 2.
        ((0.89, 0.87), (0.90, 0.88), True, True),
        ((0.89, 0.868), (0.90, 0.878), False, False),
        ((0.95, 0.95), (0.95, 0.95), True, True),
    ],
)
def test_the_criteria_are_two_points_and_one_by_means_over_seeds(
    defaults: Sequence[float], search: Sequence[float], met: bool, found: bool
) -> None:
    pairs = enumerate(zip(defaults, search, strict=True), start=1)
    trials = [
        one for seed, (first, second) in pairs for one in outcomes({DEFAULTS: first, SEARCH: second}, seed)
    ]
    judged = row(trials)
    assert (judged.defaults_meet, judged.search_meets) == (met, found)
    text = "\n".join(quality([judged]))
    assert f"Defaults: {int(met)} of 1 within 2 points" in text
    assert f"Search: {int(found)} of 1 within 1 point of" in text
    few = row(trials, a_task(test=499))
    assert few.defaults_meet is None
    assert "Defaults: 0 of 0" in "\n".join(quality([few]))


def test_the_tables_tell_what_was_found() -> None:
    found = [*outcomes({DEFAULTS: 0.88, TF_IDF: 0.8}, 1), *outcomes({DEFAULTS: 0.84, TF_IDF: 0.8}, 2, 30.0)]
    _, _, line, _, *summary = quality([row(found)])
    assert line == (
        "| task | 86.0 ± 2.0 | 50.0 ± 0.0 | 90.0 ± 0.0 | 50.0 ± 0.0 | 80.0 ± 0.0 | 50.0 ± 0.0 "
        "| **-4.0 ± 2.0 missed** | **-40.0 ± 0.0 missed** | +36.0 ± 2.0 | +6.0 ± 2.0 |"
    )
    assert "-4.0 points on average" in summary[0]
    assert "2.5 trainings" in summary[2]
    assert "1 of 1 at most 3" in summary[2]
    assert "lowest validation loss: -40.0 points" in summary[3]
    assert costs([row(found)])[-1] == (
        "| task | 20.0 ± 10.0 | 50.0 ± 25.0 | 20.0 ± 10.0 | 20.0 ± 10.0 | 20.0 ± 10.0 | 2.5 |"
    )


def test_separators_are_beside_each_other() -> None:
    nothing, line_break, _ = SEPARATORS
    assert separators([row(outcomes({nothing: 0.6, line_break: 0.7}))]) == [
        "| task | nothing | line break | Label: |",
        "| --- | --- | --- | --- |",
        "| task | 60.0 | 70.0 | 50.0 |",
    ]


def test_more_records_are_another_column() -> None:
    found = outcomes({DEFAULTS: 0.88, TF_IDF: 0.7})
    few = [replace(one, trial=replace(one.trial, records=16), accuracy=0.6) for one in found]
    lines = by_records(Figures([*found, *few]), [MODEL], [a_task()], [16, 64, 1000])
    assert lines[2:] == [
        "| task | majority | 60.0 | - | 50.0 | 200 |",
        "| task | TF-IDF | 60.0 | - | 70.0 | 200 |",
        "| task | defaults, model | 60.0 | - | 88.0 | 200 |",
    ]


def test_a_seed_without_all_of_its_trials_is_left_out_and_named() -> None:
    whole, half = outcomes({}, 1), outcomes({}, 2)
    kept = [one for one in half if one.trial.contender not in (LUCKY, *list(PEFT)[:2])]
    found = row([*whole, *kept])
    assert set(found.points(GRID_COLUMN)) == set(found.points(PEFT_COLUMN)) == {1}
    assert set(found.points(DEFAULTS)) == {1, 2}
    assert missing([one.trial for one in (*whole, *half)], [*whole, *kept]) == [
        "grid with 200 records: model task (seed 2)",
        "peft with 200 records: model task (seed 2)",
    ]


# ---- tasks ----


def test_labels_that_a_model_never_said_are_found(base: BaseModel) -> None:
    (flag, *_) = held_out_tasks()
    assert unspeakable(flag, base) == []
    assert left_out(flag, base) == ""
    spoilt = Task("spoilt", (SPOKEN,), (SPOKEN,), (UNSPOKEN,) * 100)
    assert unspeakable(spoilt, base) == ["\u6f22\u5b57"]
    assert "can't say \u6f22\u5b57" in left_out(spoilt, base)


def test_held_out_records_are_new_and_the_same_each_time() -> None:
    first, second = list(held_out_tasks()), list(held_out_tasks())
    assert first == second
    for task in first:
        parts = [{record["input"] for record in part} for part in (task.pool, task.selection, task.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert list(map(len, parts)) == [1500, 500, 500]


def test_a_seed_draws_records_of_which_fewer_are_the_first() -> None:
    task = a_task()
    assert task.draw(64, seed=1)[:16] == task.draw(16, seed=1)
    assert task.draw(64, seed=1) == task.draw(64, seed=1) != task.draw(64, seed=2)
    assert all(record in task.pool for record in task.draw(64, seed=1))


def test_data_sets_are_parted_and_generation_is_none_of_them(tmp_path: Path) -> None:
    for name, kind in (("flags", "classification"), ("poems", "generation")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "meta.json").write_text(f'{{"task": "{kind}"}}')
        # The first four of train.jsonl are in test.jsonl, too.
        for part, numbers in (("train", range(5, 19)), ("test", range(9))):
            lines = (f'{{"input": "{number}", "output": "red"}}\n' for number in numbers)
            (folder / f"{part}.jsonl").write_text("".join(lines))
    (task,) = real_tasks(tmp_path, selection=4)
    assert list(map(len, (task.pool, task.selection, task.test))) == [6, 4, 9]
    inputs = [record["input"] for record in (*task.pool, *task.selection, *task.test)]
    assert len(set(inputs)) == len(inputs)
    assert [task] == list(real_tasks(tmp_path, selection=4))
    (halved,) = real_tasks(tmp_path, selection=500)
    assert list(map(len, (halved.pool, halved.selection))) == [5, 5]
    assert halved.size(200) == 5


# ---- results ----


def test_a_trial_is_made_once_and_not_taken_for_another(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    first, second, *_ = outcomes({})
    Results(file).add(first)
    # Killed while it wrote.
    file.write_bytes(file.read_bytes() + b'{"trial": {"mod')
    ours, theirs = Results(file), Results(file)
    theirs.add(second)
    assert ours.get(first.trial, "basis") == first
    assert ours.get(first.trial, "other defaults") is None
    assert ours.get(replace(first.trial, seed=2), "basis") is None
    assert ours.get(second.trial, "basis") is None
    ours.read()
    assert ours.get(second.trial, "basis") == second


def test_who_has_the_parameters_of_another_has_its_outcome(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    (grid,) = (one for one in outcomes({}) if one.trial.contender == CHOSEN)
    defaults = replace(grid.trial, contender=DEFAULTS)
    results = Results(file)
    results.add(grid)
    assert results.of_equal(defaults, "basis", selected=False) == replace(grid, trial=defaults)
    assert results.of_equal(replace(defaults, seed=2), "basis", selected=False) is None
    assert results.of_equal(defaults, "other", selected=False) is None
    unselected = replace(grid, trial=replace(defaults, seed=3), selected=None)
    results.add(unselected)
    assert results.of_equal(replace(grid.trial, seed=3), "basis", selected=True) is None


def test_the_basis_is_all_that_an_outcome_depends_on(llama: BaseModel) -> None:
    def basis(contender: str = DEFAULTS, task: Task | None = None, seed: int = 1, **also: Any) -> str:
        trial = Trial("tiny-llama", NAME, contender, seed, 12, 9)
        return Attempt(trial, task or a_task(9, 12), llama, also).basis

    others = [
        basis(),
        basis(SEARCH),
        basis(next(iter(PEFT))),
        basis([*PEFT][1]),
        basis(MAJORITY),
        basis(TF_IDF),
        basis(task=a_task(9, 13)),
        basis(task=a_task(8, 12)),
        basis(seed=2),
        basis(verbalizer="{{input}} Label:"),
    ]
    assert len(set(others)) == len(others)
    assert basis() == basis("0.3 RANDOM 100") == basis("line break") != basis("nothing")
    assert basis() == basis()
    assert basis() == basis(silence_progress_bars=False)


def test_what_only_sources_need_decides_nothing_elsewhere() -> None:
    parameters = {"tuning_type": "PROMPT_TUNING", "seed": 1, "task_learning_rate": 0.1, "origins": {}}
    assert deciding(parameters) == {"tuning_type": "PROMPT_TUNING", "seed": 1}
    multitask = {**parameters, "tuning_type": "MULTITASK_PROMPT_TUNING"}
    assert deciding(multitask) == {name: value for name, value in multitask.items() if name != "origins"}


def test_parts_share_nothing_and_leave_nothing() -> None:
    attempts = [Attempt(one.trial, a_task(), None) for seed in range(1, 31) for one in outcomes({}, seed)]
    parts = [of_part(attempts, (number, 3)) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == len(attempts)
    assert {one.trial for part in parts for one in part} == {one.trial for one in attempts}
    assert min(map(len, parts)) > len(attempts) / 6
    of_seed_one = [{one.trial.model for one in part if one.trial.seed == 1} for part in parts]
    assert sum(MODEL in models for models in of_seed_one) == 1


def test_a_run_without_time_prints_the_page_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--minutes", "0"])
    text = capsys.readouterr().out
    assert "python -m bench.quality --quick\n" in text
    assert "| ticket_flag | - | - |" in text
    assert "0 of 29 trials are there" in text
    assert "- grid with 50 records: tiny-llama ticket_flag (seed 1)" in text


# ---- the rival ----


def rival_plan(base: BaseModel, **request: Any) -> TuningPlan:
    asked = {
        "base_model": base.checkpoint.name,
        "num_virtual_tokens": 7,
        "num_epochs": 3,
        "batch_size": 4,
        "tuning_task": "classification",
    }
    return make_plan({**asked, **request}, some(10), None, Settings(), base)


@uses_peft
def test_loss_and_update_of_the_rival_are_ours(base: BaseModel) -> None:
    """From one start, for texts of different lengths: so its batches and its loss are right."""
    plan = rival_plan(base)
    loop = PeftLoop(base, plan, plan.parameters.learning_rate)
    examples = make_examples(plan.records, base.text, plan.parameters)
    batch = examples.batch(range(4))
    assert len({len(source) for source in batch.sources}) > 1
    assert len({len(target) for target in batch.targets}) > 1
    ours = PlainPrompt(loop.prompt, plan.parameters)
    learner = Learner(ours, plan.parameters, loop.updates)
    ((part, rows),) = ours.tensors().items()
    start = rows.detach().clone()
    (loss,) = gradients(base, [learner], [batch])
    learner.step(loss)
    assert loop.update(examples.items[:4]) == pytest.approx(float(loss), rel=1e-4)
    assert rows.grad is not None
    assert loop.weight.grad is not None
    largest = float(rows.grad.abs().max())
    torch.testing.assert_close(loop.weight.grad, rows.grad, rtol=1e-3, atol=1e-4 * largest)
    # AdamW's first step is the sign of the gradient, which rounding decides where there is next to none.
    clear = rows.grad.abs() > 1e-2 * largest
    assert clear.float().mean() > 0.2
    moved = loop.prompt.tensors[part] - start
    torch.testing.assert_close(moved[clear], (rows - start)[clear], rtol=1e-3, atol=1e-5)
    assert loop.learning_rate == pytest.approx(learner.learning_rate)


@uses_peft
def test_the_rival_makes_as_many_updates_of_all_records(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = rival_plan(llama, validation_share=0.5)
    batches: list[Sequence[Example]] = []

    def update(_: PeftLoop, batch: Sequence[Example]) -> float:
        batches.append(batch)
        return 0.0

    monkeypatch.setattr(PeftLoop, "update", update)
    everything = rival_plan(llama).records
    PeftLoop(llama, plan, 0.1).run(everything)
    # Three epochs of two windows of the five records that ours are left with.
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert len({tuple(one.source) for batch in batches[:3] for one in batch}) == 10


@uses_peft
def test_the_rival_starts_by_seed_and_as_ours_where_peft_has_no_such_start(llama: BaseModel) -> None:
    def start(**request: Any) -> torch.Tensor:
        return PeftLoop(llama, rival_plan(llama, **request), 0.1).weight.detach()

    assert torch.equal(start(seed=1), start(seed=1))
    assert not torch.equal(start(seed=1), start(seed=2))
    text = {"prompt_tuning_init_method": "TEXT", "prompt_tuning_init_text": "sort it by colour"}
    expected = initial_prompt(start_of(rival_plan(llama, **text), llama)).tensors
    assert torch.equal(start(**text), next(iter(expected.values())))
