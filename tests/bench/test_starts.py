"""The bench of starts compares what it says it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.quality.task import Record, Task, held_out_tasks
from bench.quality.trial import Outcome, Trial
from bench.starts import kept as kept_module
from bench.starts import start as start_module
from bench.starts.__main__ import main
from bench.starts.contender import (
    ABLATION,
    AUTO,
    AVERAGE,
    CONTENDERS,
    FROM_SOURCE,
    MAIN,
    PLAIN,
    UNTUNED,
    Contender,
)
from bench.starts.draw import draw, labels
from bench.starts.figures import Figures
from bench.starts.interval import interval, lead
from bench.starts.kept import Kept
from bench.starts.known import known
from bench.starts.recipe import DEFAULT, ONE_RATE, TASKS, WITHOUT_TEACHERS, source_records
from bench.starts.start import (
    Target,
    agreeing_vectors,
    halves_apart,
    mean_on_the_way,
    nearest_teacher,
    starting_from,
    task_vectors,
)
from bench.starts.table import ablation, by_records, by_target, costs
from bench.starts.taught import taught_by
from bench.starts.trial import Attempt
from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.source import resolve_source
from caikit_pt.parameters.tuning import PROMPT_TUNING
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import initial_prompt
from caikit_pt.soft_prompt.prompt import PlainPrompt, SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.source_tuner import tune_source
from caikit_pt.tuning.source_tuning import SourceTuning
from caikit_pt.tuning.teachers import Teachers
from tests.numerics.tunings import start_of

MODEL, NAME, OTHER, RECORDS = "model", "task", "other", 4
SMALL = {"num_epochs": 2, "num_virtual_tokens": 3}
SOURCES = source_records(2, 12)


def some(count: int, outputs: Sequence[str] = ("red", "green")) -> tuple[Record, ...]:
    labels = islice(cycle(outputs), count)
    return tuple({"input": f"text {number}", "output": label} for number, label in enumerate(labels))


def a_task() -> Task:
    return Task(NAME, some(40), some(2), some(6))


@pytest.fixture(scope="module")
def kept(llama: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What is kept of two source tasks with few records."""
    return Kept(tmp_path_factory.mktemp("sources"), llama, SOURCES, SMALL)


def plan_of(base: BaseModel, records: Sequence[Record] | None = None, **request: Any) -> TuningPlan:
    asked = {"base_model": base.checkpoint.name, "tuning_task": "classification", **SMALL, **request}
    return make_plan(asked, records or some(8), None, Settings(), base, tells=False)


def attempt(name: str, base: BaseModel, kept: Kept, task: Task | None = None, seed: int = 1) -> Attempt:
    trial = Trial(base.checkpoint.name, NAME, name, seed, RECORDS, 6)
    return Attempt(trial, task or a_task(), base, kept, SMALL)


def same(one: SoftPrompt, other: SoftPrompt) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[part], other.tensors[part]) for part in one.tensors
    )


# ---- records and sources ----


def test_a_draw_has_two_labels_and_is_the_same_each_time() -> None:
    task = Task(NAME, (*some(60, ("red",)), *some(3, ("green",))), (), ())
    drawn = {seed: draw(task, 4, seed) for seed in range(1, 20)}
    assert all(labels(records) == ["green", "red"] for records in drawn.values())
    assert drawn == {seed: draw(task, 4, seed) for seed in drawn}
    first = {seed: task.draw(4, seed) for seed in drawn}
    again = [seed for seed, records in first.items() if len(labels(records)) == 1]
    assert len(again) > 0
    for seed, records in drawn.items():
        tried = [task.draw(4, seed + 1000 * more) for more in range(100)]
        assert records == next(one for one in tried if len(labels(one)) > 1)
    with pytest.raises(ValueError, match="can't be drawn"):
        draw(Task(NAME, some(9, ("red",)), (), ()), 4, 1)


def test_no_target_is_a_source() -> None:
    assert set(TASKS).isdisjoint(task.name for task in held_out_tasks(8, 8))
    assert list(source_records()) == list(TASKS)
    assert {len(records) for records in source_records().values()} == {320}


def test_kept_sources_are_those_of_a_source_training(llama: BaseModel, kept: Kept) -> None:
    for recipe in (DEFAULT, WITHOUT_TEACHERS, ONE_RATE):
        expected = tune_source(kept.plan(recipe), llama).source
        found = kept.source(recipe)
        for name in ("shared", "columns", "rows"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (recipe.name, name)
        assert found.tasks == tuple(SOURCES)
    assert kept.plan(ONE_RATE).training.task_learning_rate == kept.plan(DEFAULT).training.learning_rate
    assert not kept.plan(WITHOUT_TEACHERS).parameters.has_teachers
    assert len({kept.digest(recipe) for recipe in (DEFAULT, WITHOUT_TEACHERS, ONE_RATE)}) == 3
    # Without validation records what is kept is what the way ends with.
    assert torch.equal(kept.way(DEFAULT)[-1].shared, kept.source(DEFAULT).shared)
    assert not torch.equal(kept.way(DEFAULT)[0].shared, kept.source(DEFAULT).shared)


def test_what_is_kept_is_not_made_again(
    llama: BaseModel, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = kept.source(DEFAULT).shared, kept.teachers
    monkeypatch.delattr(kept_module, "SourceTuning")
    monkeypatch.delattr(kept_module, "Teachers")
    again = Kept(kept._folder, llama, SOURCES, SMALL)
    assert torch.equal(again.source(DEFAULT).shared, expected[0])
    assert all(same(one, expected[1][name]) for name, one in again.teachers.items())


def test_a_source_training_that_is_cut_off_goes_on(
    llama: BaseModel, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = kept.way(DEFAULT)
    monkeypatch.setattr(kept_module, "_SNAPSHOT_SECONDS", 0.0)
    # One update after the other, of the teachers and of the source.
    for module, name in ((Teachers, "update"), (SourceTuning, "update")):
        made = 0
        update = getattr(module, name)

        def cut_off(self: Any, *given: Any, update: Any = update) -> None:
            nonlocal made
            made += 1
            if made == 3:
                raise KeyboardInterrupt
            update(self, *given)

        monkeypatch.setattr(module, name, cut_off)
        with pytest.raises(KeyboardInterrupt):
            Kept(tmp_path, llama, SOURCES, SMALL).way(DEFAULT)
        monkeypatch.setattr(module, name, update)
    found = Kept(tmp_path, llama, SOURCES, SMALL).way(DEFAULT)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.shared, other.shared)
    assert not list(tmp_path.glob("**/.*.snapshots"))


# ---- what is started from ----


def test_rows_are_the_start_of_a_training(base: BaseModel) -> None:
    plan = plan_of(base)
    rows = initial_prompt(start_of(plan_of(base, seed=5), base))
    assert not same(initial_prompt(start_of(plan, base)), rows)
    from_rows = starting_from(plan, rows)
    assert same(initial_prompt(start_of(from_rows, base)), rows)
    assert from_rows.parameters.tuning_type == PROMPT_TUNING
    assert from_rows.records == plan.records


def test_halves_apart_lose_tasks_that_differ_in_sign(
    llama: BaseModel, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = llama.checkpoint.prompt_parts
    shared, signs = torch.ones(3, 4), torch.tensor([1.0, -1.0])[:, None, None]
    flipped = SourcePrompt("", shared, signs * torch.ones(2, 3, 1), signs * torch.ones(2, 1, 4))
    monkeypatch.setattr(kept, "source", lambda _: flipped)
    target = Target(plan_of(llama), llama, kept)
    assert torch.equal(flipped.average(), shared)
    assert torch.equal(halves_apart(target).tensors[part], 0 * shared)


def test_vectors_are_added_to_what_they_start_from(
    llama: BaseModel, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = llama.checkpoint.prompt_parts
    target = Target(plan_of(llama), llama, kept)
    teachers = [one.tensors[part] for one in kept.teachers.values()]
    torch.testing.assert_close(task_vectors(target).tensors[part], torch.stack(teachers).mean(0))
    found = start_module.agreements(target)
    assert set(found) == set(SOURCES)
    assert all(-1 <= cosine <= 1 for cosine in found.values())
    first, second = SOURCES
    monkeypatch.setattr(start_module, "agreements", lambda _: {first: -0.1, second: 0.2})
    torch.testing.assert_close(agreeing_vectors(target).tensors[part], teachers[1])
    assert same(nearest_teacher(target), kept.teachers[second])
    monkeypatch.setattr(start_module, "agreements", lambda _: {first: -0.1, second: -0.2})
    assert same(agreeing_vectors(target), kept.initial)


def test_a_target_agrees_with_the_vector_of_its_own_records(llama: BaseModel, kept: Kept) -> None:
    """By the records of the source tasks themselves."""
    for name, records in SOURCES.items():
        found = start_module.agreements(Target(plan_of(llama, records), llama, kept))
        assert max(found, key=found.__getitem__) == name


def test_the_way_is_averaged(llama: BaseModel, kept: Kept) -> None:
    (part,) = llama.checkpoint.prompt_parts
    target = Target(plan_of(llama), llama, kept)
    averages = [one.average() for one in kept.way(DEFAULT)]
    assert len(averages) == 4
    torch.testing.assert_close(mean_on_the_way(target).tensors[part], sum(averages) / 4)


def test_who_is_taught_by_himself_learns_nothing_more(base: BaseModel) -> None:
    plan = plan_of(base)
    parameters = resolve_source({}, plan.parameters, base.checkpoint.layers)
    batch = make_examples(plan.records, base.text, plan.parameters).batch(range(8))
    start = initial_prompt(start_of(plan, base))
    other = SoftPrompt({part: rows.flip(0) * 2 for part, rows in start.tensors.items()})

    def learnt(how: Any) -> tuple[float, torch.Tensor]:
        prompt = PlainPrompt(start, plan.parameters)
        (loss,) = how(base, [Learner(prompt, plan.parameters, 1)], [batch])
        (rows,) = prompt.tensors().values()
        assert rows.grad is not None
        return float(loss), rows.grad

    loss, alone = learnt(gradients)
    own_loss, own = learnt(taught_by(start, base, parameters))
    taught_loss, taught = learnt(taught_by(other, base, parameters))
    assert loss == pytest.approx(own_loss) == pytest.approx(taught_loss)
    scale = float(alone.abs().max())
    torch.testing.assert_close(own, alone, rtol=1e-3, atol=1e-4 * scale)
    assert float((taught - alone).abs().max()) > 1e-2 * scale


# ---- trials ----


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != AUTO.name])
def test_each_contender_comes_to_an_outcome(llama: BaseModel, kept: Kept, name: str) -> None:
    outcome, contender = attempt(name, llama, kept).make(), CONTENDERS[name]
    assert 0 <= outcome.accuracy <= 1
    assert (outcome.seconds > 0) == contender.trains
    assert outcome.chosen.startswith(_start_of(contender))


def _start_of(contender: Contender) -> str:
    if contender.rows:
        return contender.name
    if not contender.trains:
        return ""
    method = contender.request.get("prompt_tuning_init_method", "RANDOM")
    return f"{method} source/1" if contender.source else str(method)


def test_the_basis_is_all_that_an_outcome_depends_on_and_needs_no_source(
    llama: BaseModel, tmp_path: Path
) -> None:
    def basis(name: str, task: Task | None = None, seed: int = 1, **also: Any) -> str:
        kept = Kept(tmp_path / "none", llama, SOURCES, {**SMALL, **also})
        return attempt(name, llama, kept, task, seed).basis

    found = {name: basis(name) for name in CONTENDERS}
    assert len(set(found.values())) == len(found)
    assert found == {name: basis(name) for name in CONTENDERS}
    assert found[AVERAGE.name] != basis(AVERAGE.name, num_epochs=3)
    assert found[PLAIN[0].name] == basis(PLAIN[0].name, num_epochs=3)
    assert found["taught"] != basis("taught", num_epochs=3)
    assert basis(UNTUNED.name, seed=2) != found[UNTUNED.name]
    assert basis(UNTUNED.name, replace(a_task(), test=some(5))) != found[UNTUNED.name]
    assert not (tmp_path / "none").exists()
    assert known({"a": 1, "b": 0, "c": "", "origins": {"a": "request"}}) == {"a": 1}


def test_auto_is_tried(llama: BaseModel, kept: Kept) -> None:
    assert attempt(AUTO.name, llama, kept).make().chosen


# ---- figures ----


def outcome(contender: Contender, accuracy: float, seed: int = 1, task: str = NAME) -> Outcome:
    return Outcome(Trial(MODEL, task, contender.name, seed, RECORDS, 500), "basis", accuracy, 10 * accuracy)


def test_intervals_are_student_s() -> None:
    """By hand: of 1 to 5 the error is (2.5 / 5) ** 0.5, and t with four degrees of freedom 2.776."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found
    assert found.value == 3
    assert found.error == pytest.approx(2.7764 * 0.5**0.5, rel=1e-4)
    assert str(interval([4.0])) == "4.0"
    assert interval([]) is None
    paired = lead({1: 50.0, 2: 60.0}, {1: 49.0, 2: 59.0, 3: 0.0})
    assert paired
    assert paired.signed == "+1.0 ± 0.0"


def test_the_best_of_a_line_is_compared_seed_by_seed() -> None:
    accuracies = [(0.5, 0.7), (0.6, 0.5), (0.2, 0.2), (0.6, 0.8), (0.9, 0.1)]
    found = [
        outcome(one, accuracy, seed)
        for one, both in zip((*PLAIN, *FROM_SOURCE[:2]), accuracies, strict=True)
        for seed, accuracy in enumerate(both, 1)
    ]
    line = by_target(found, MODEL, [NAME], RECORDS)[-1]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert len(cells) == len(MAIN) + 3
    means = [cell.split(" ")[0] for cell in cells]
    assert means == [NAME, "-", "60.0", "55.0", "20.0", "70.0", "50.0", "-", "+10.0", "-"]
    assert cells[-2] == "+10.0 ± 0.0"


def test_means_are_over_targets_that_are_all_there() -> None:
    found = [outcome(AVERAGE, 0.5), outcome(AVERAGE, 0.7, task=OTHER), outcome(AVERAGE, 0.9, seed=2)]
    assert Figures(found, MODEL, (NAME, OTHER), RECORDS).points(AVERAGE) == {1: pytest.approx(60)}
    assert set(Figures(found, MODEL, (NAME,), RECORDS).points(AVERAGE)) == {1, 2}
    (*_, told) = by_records(found, MODEL, [NAME, OTHER], [RECORDS])
    assert told == "| 4 | - | - | - | - | 60.0 | - | - | - | - |"
    one = ABLATION[0]
    found += [outcome(one, 0.6), outcome(one, 0.7, task=OTHER)]
    lines = ablation(found, MODEL, [NAME, OTHER], [RECORDS])
    assert lines[2] == "| AVERAGE_SOURCE | 60.0 |"
    assert f"| {one.name} | +5.0 |" in lines
    assert f"| {one.name} | 6.5 |" in costs(found, MODEL, [NAME, OTHER], [RECORDS])


def test_a_quick_run_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"])
    text = capsys.readouterr().out
    assert "python -m bench.starts --quick\n" in text
    assert "| ticket_flag | " in text
    assert "## What is missing" not in text
    main(["--quick", "--minutes", "0"])
    text = capsys.readouterr().out
    assert f"| {AVERAGE.name} | 1 |" in text
