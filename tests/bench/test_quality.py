"""The bench of quality judges by what it says it judges by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality.results import Results
from bench.quality.table import Row, rows, table
from bench.quality.task import Task, held_out_tasks, left_out, real_tasks, unspeakable
from bench.quality.trial import DEFAULTS, GRID, REQUESTS, SEARCH, Trial, try_out
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import TUNING_PARAMETERS

BEST = "0.1 RANDOM 20"
SPOKEN = {"input": "a", "output": "red"}
UNSPOKEN = {"input": "b", "output": "\u6f22\u5b57"}


def trials(defaults: float, search: float, seconds: float = 25.0, task: str = "task") -> list[Trial]:
    """All trials of a task, of which one point of the grid has 0.9 and the others 0.5."""
    accuracies = {**dict.fromkeys(GRID, 0.5), BEST: 0.9, DEFAULTS: defaults, SEARCH: search}
    return [
        Trial("model", task, name, accuracy, 1 - accuracy, seconds if name == SEARCH else 10.0, f"of {name}")
        for name, accuracy in accuracies.items()
    ]


def test_the_grid_has_twelve_points_of_parameters_that_there_are() -> None:
    assert len(GRID) == 12
    assert len({tuple(request.items()) for request in GRID.values()}) == 12
    for request in REQUESTS.values():
        for name, value in request.items():
            assert TUNING_PARAMETERS[name].check(value) == value


@pytest.mark.parametrize(
    ("defaults", "search", "met", "found"),
    [(0.88, 0.89, 1, 1), (0.879, 0.89, 0, 1), (0.88, 0.889, 1, 0), (0.95, 0.95, 1, 1), (0.2, 0.2, 0, 0)],
)
def test_the_criteria_are_two_points_and_one(defaults: float, search: float, met: int, found: int) -> None:
    (row,) = rows(trials(defaults, search))
    assert (row.defaults_meet, row.search_meets) == (bool(met), bool(found))
    text = table(trials(defaults, search))
    assert f"Defaults: {met} of 1 within 2 points" in text
    assert f"Search: {found} of 1 within 1 point" in text


def test_means_are_over_the_rows() -> None:
    text = table([*trials(0.88, 0.9), *trials(0.84, 0.86, seconds=35.0, task="other")])
    assert "Defaults: 1 of 2 within 2 points of the best of the grid, -4.0 points on average." in text
    assert "Search: 1 of 2 within 1 point, -2.0 points on average; 1 of 2 at no more than 3 times" in text
    assert "3.0 times on average" in text


def test_a_row_tells_the_best_and_what_validation_would_have_chosen() -> None:
    some = trials(0.84, 0.9)
    lucky = [replace(one, validation_loss=9.0) if one.request == BEST else one for one in some]
    row = Row(lucky)
    assert row.best.request == BEST
    assert row.chosen.request != BEST
    assert row.chosen_difference == pytest.approx(-40)
    assert row.error == pytest.approx(1.34, abs=0.01)
    assert "| 90.0 ± 1.3 |" in str(row)
    assert "| **-6.0 missed** |" in str(row)
    assert "| +0.0 met |" in str(row)
    assert "| 2.5 met |" in str(row)
    assert "| **3.5 missed** |" in str(Row(trials(0.9, 0.9, seconds=35.0)))


def test_only_tasks_with_all_of_their_trials_are_in_the_table() -> None:
    assert not rows(trials(0.9, 0.9)[:-1])
    assert "yet" in table([])


def test_trials_on_fewer_records_are_not_mixed_in() -> None:
    some = trials(0.9, 0.9)
    assert not rows([replace(some[0], records=24), *some[1:]])


def test_labels_that_a_model_never_said_are_found(base: BaseModel) -> None:
    (flag, *_) = held_out_tasks()
    assert unspeakable(flag, base) == []
    assert left_out(flag, base) == ""
    spoilt = Task("spoilt", (SPOKEN,), (UNSPOKEN,) * 100)
    assert unspeakable(spoilt, base) == ["\u6f22\u5b57"]
    assert "can't say \u6f22\u5b57" in left_out(spoilt, base)
    assert "1 test records" in left_out(Task("small", (SPOKEN,), (SPOKEN,)), base)


def test_held_out_records_are_new_and_the_same_each_time() -> None:
    first, second = list(held_out_tasks()), list(held_out_tasks())
    assert first == second
    for task in first:
        assert not {record["input"] for record in task.train} & {record["input"] for record in task.test}


def test_data_sets_are_drawn_by_seed_and_generation_is_none_of_them(tmp_path: Path) -> None:
    for name, kind in (("flags", "classification"), ("poems", "generation")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "meta.json").write_text(f'{{"task": "{kind}"}}')
        for part in ("train", "test"):
            lines = (f'{{"input": "{part} {number}", "output": "red"}}\n' for number in range(9))
            (folder / f"{part}.jsonl").write_text("".join(lines))
    (task,) = real_tasks(tmp_path, train=4, test=6)
    assert (task.name, task.sizes) == ("flags", (4, 6))
    assert [task] == list(real_tasks(tmp_path, train=4, test=6))


def test_a_trial_is_made_once(tmp_path: Path, llama: BaseModel) -> None:
    task = Task("task", (SPOKEN,) * 3, (SPOKEN,) * 2)
    file = tmp_path / "trials.jsonl"
    trial = Trial("tiny-llama", "task", DEFAULTS, 0.5, 0.1, 1.0, "it", *task.sizes)
    Results(file).add(trial)
    assert Results(file).get(llama, task, DEFAULTS) == trial
    assert Results(file).get(llama, task, SEARCH) is None
    assert Results(file).get(llama, replace(task, train=(SPOKEN,)), DEFAULTS) is None


def test_what_diverges_answers_nothing(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise TrainingDiverged("The loss is not finite.")

    monkeypatch.setattr("bench.quality.trial.tune", diverge)
    trial = try_out(llama, Task("task", (SPOKEN,) * 3, (SPOKEN,) * 2), DEFAULTS)
    assert (trial.accuracy, trial.validation_loss, trial.chosen) == (0.0, float("inf"), "diverged")
    assert trial.judged == 2
