"""The bench of quality judges by what it says it judges by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.quality.table import Row, rows, table
from bench.quality.task import Task, held_out_tasks, unspeakable
from bench.quality.trial import DEFAULTS, GRID, REQUESTS, SEARCH, Trial
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.parameters.tuning import TUNING_PARAMETERS

BEST = "0.1 RANDOM 20"


def trials(defaults: float, search: float, seconds: float = 25.0) -> list[Trial]:
    """All trials of a task, of which one point of the grid has 0.9 and the others 0.5."""
    accuracies = {**dict.fromkeys(GRID, 0.5), BEST: 0.9, DEFAULTS: defaults, SEARCH: search}
    return [
        Trial(
            "model", "task", name, accuracy, 1 - accuracy, seconds if name == SEARCH else 10.0, f"of {name}"
        )
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
    text = table(trials(defaults, search))
    assert f"Defaults: {met} of 1 within 2 points" in text
    assert f"Search: {found} of 1 within 1 point" in text


def test_a_row_tells_the_best_and_what_validation_would_have_chosen() -> None:
    some = trials(0.9, 0.9)
    lucky = [replace(one, validation_loss=9.0) if one.request == BEST else one for one in some]
    row = Row(lucky)
    assert row.best.request == BEST
    assert row.chosen.request != BEST
    assert row.cost == 2.5
    assert "| +2.5 |" in str(row)
    assert "**+3.5**" in str(Row(trials(0.9, 0.9, seconds=35.0)))


def test_only_tasks_with_all_of_their_trials_are_in_the_table() -> None:
    assert not rows(trials(0.9, 0.9)[:-1])
    assert "yet" in table([])


def test_labels_that_a_model_never_said_are_found(base: BaseModel) -> None:
    (flag, *_) = held_out_tasks()
    assert unspeakable(flag, base) == []
    spoilt = Task("spoilt", ({"input": "a", "output": "red"},), ({"input": "b", "output": "\u6f22\u5b57"},))
    assert unspeakable(spoilt, base) == ["\u6f22\u5b57"]


def test_held_out_records_are_new_and_the_same_each_time() -> None:
    first, second = list(held_out_tasks()), list(held_out_tasks())
    assert first == second
    for task in first:
        assert not {record["input"] for record in task.train} & {record["input"] for record in task.test}
