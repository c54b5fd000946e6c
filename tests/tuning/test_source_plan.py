"""Requests for source trainings: what becomes of them, and what is refused, with the task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, InvalidRecord
from caikit_pt.parameters.source import NOT_OF_SOURCES, OF_EACH_TASK, SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.tuning.source_plan import TaskData, make_source_plan
from caikit_pt.tuning.source_tuner import tune_source
from tests.conftest import SETTINGS

from .sources import NAMED, source_plan, tasks
from .training import PAIRS
from .training import plan as tuning_plan


def test_each_task_has_a_plan_of_its_own_and_shares_the_rest(base: BaseModel) -> None:
    plan = source_plan(base, learning_rate=0.2)
    assert plan.names == ("mood", "named", "word")
    assert [len(one.records) for one in plan.tasks.values()] == [10, 6, 7]
    assert [one.parameters.verbalizer for one in plan.tasks.values()] == [
        "{{input}}",
        "Name it: {{input}}",
        "{{input}}",
    ]
    assert [one.parameters.tuning_task for one in plan.tasks.values()] == [
        "classification",
        "generation",
        "generation",
    ]
    assert {one.parameters.learning_rate for one in plan.tasks.values()} == {0.2}
    assert plan.training.tuning_type == "MULTITASK_PROMPT_TUNING"
    assert any(told.startswith("named: 6 records are few") for told in plan.warnings)


def test_tasks_learn_faster_than_their_rows_and_what_starts_from_them_slower(llama: BaseModel) -> None:
    training = source_plan(llama, learning_rate=0.3).training
    assert training.task_learning_rate == pytest.approx(0.4)
    assert training.origins["task_learning_rate"].startswith("4/3 of learning_rate")
    adapted = tuning_plan(llama, tuning_type="MULTITASK_PROMPT_TUNING", learning_rate=0.3).parameters
    assert adapted.task_learning_rate == pytest.approx(0.01)
    assert adapted.origins["task_learning_rate"] == "a thirtieth of learning_rate"
    asked = source_plan(llama, learning_rate=0.3, task_learning_rate=0.2).training
    assert (asked.task_learning_rate, asked.origins["task_learning_rate"]) == (0.2, "request")


def test_a_rate_that_nobody_asked_for_keeps_to_the_limits_of_the_operator(llama: BaseModel) -> None:
    settings = replace(SETTINGS, tuning_limits={"task_learning_rate": (0.001, 0.2)})
    planned = make_source_plan({"base_model": llama.checkpoint.name}, tasks(), settings)
    assert planned.training.task_learning_rate == 0.2


def test_teachers_are_plain_and_follow_the_training_where_nothing_is_said(llama: BaseModel) -> None:
    plan = source_plan(llama, learning_rate=0.2, teacher_epochs=None)
    own = plan.parameters
    assert (own.teacher_epochs, own.teacher_learning_rate) == (2, 0.2)
    assert (own.origins["teacher_epochs"], own.origins["num_ranks"]) == ("num_epochs", "default")
    plan = source_plan(llama, learning_rate=0.2, teacher_epochs=7, teacher_learning_rate=0.5)
    for name, teacher in plan.teachers.items():
        assert teacher.parameters == replace(
            plan.tasks[name].parameters,
            tuning_type="PROMPT_TUNING",
            num_epochs=7,
            learning_rate=0.5,
            origins=teacher.parameters.origins,
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"tasks: '' is not allowed. Allowed: 2 to 1,000 tasks"),
        (["one"], "tasks: 'one' is not allowed. Allowed: 2 to 1,000 tasks"),
        (["one", "two", "one"], "tasks: 'one' is not allowed. Allowed: each name once"),
        (["one", "../two"], r"tasks: '../two' is not allowed. Allowed: 1 to 200 letters"),
        (["one", ""], "tasks: '' is not allowed. Allowed: 1 to 200 letters"),
    ],
)
def test_names_that_can_not_be_are_refused(llama: BaseModel, names: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        source_plan(llama, [TaskData(name=name, records=PAIRS) for name in names])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        *(({name: "x"}, name) for name in OF_EACH_TASK),
        *(({name: "x"}, TUNING_PARAMETERS[name].field) for name in NOT_OF_SOURCES),
        ({"prompt_tuning_init_method": "AVERAGE_SOURCE"}, "tuning_config.prompt_tuning_init_method"),
        ({"num_ranks": 0}, "num_ranks"),
        ({"most_records": 0}, "most_records"),
        ({"teacher_epochs": -1}, "teacher_epochs"),
        ({"teacher_learning_rate": 0.0}, "teacher_learning_rate"),
        ({"distillation_weight": -0.1}, "distillation_weight"),
        ({"distillation_temperature": 0}, "distillation_temperature"),
        ({"state_weight": float("nan")}, "state_weight"),
        ({"state_layers": [1]}, "state_layers"),
        ({"state_weight": 0.5, "state_layers": []}, "state_layers"),
        ({"state_weight": 0.5, "state_layers": [0]}, "state_layers"),
        ({"state_weight": 0.5, "state_layers": [1, 1]}, "state_layers"),
        ({"state_weight": 0.5, "state_layers": [1, 5]}, "state_layers"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"nonsense": 1}, "nonsense"),
        ({"prompt_tuning_init_method": "TEXT"}, "tuning_config.prompt_tuning_init_text"),
        ({"output_model_types": ["ENCODER"]}, "tasks.mood.tuning_config.output_model_types"),
    ],
)
def test_what_may_not_be_is_refused_by_its_field(
    llama: BaseModel, request_: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        source_plan(llama, **request_)
    assert refused.value.field == field
    assert refused.value.allowed


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"records": []}, InvalidRecord, r"tasks.bad.train_stream: no records is not allowed"),
        ({"records": [{"input": "a"}]}, InvalidRecord, r"tasks.bad.train_stream: record 1"),
        ({"validation": [{"output": "a"}]}, InvalidRecord, r"tasks.bad.val_stream: record 1"),
        ({"verbalizer": "nothing"}, InvalidParameter, r"tasks.bad.verbalizer: 'nothing' is not allowed"),
        ({"tuning_task": "poetry"}, InvalidParameter, r"tasks.bad.tuning_task: 'poetry' is not allowed"),
        ({"input_field": "nowhere"}, InvalidRecord, r"tasks.bad.train_stream: record 1: .*'nowhere'"),
    ],
)
def test_what_is_wrong_with_a_task_is_told_with_its_name(
    llama: BaseModel, task: dict[str, Any], error: type[Exception], message: str
) -> None:
    bad = TaskData(**{"name": "bad", "records": NAMED, **task})
    with pytest.raises(error, match=message):
        source_plan(llama, [*tasks(), bad])


def test_records_that_are_seen_to_be_bad_later_are_told_with_their_task(llama: BaseModel) -> None:
    """Their tokens are made when the training begins."""
    bad = TaskData(name="bad", records=[{"input": "<s>", "output": "a"}, *NAMED], verbalizer="{{input}}")
    plan = source_plan(llama, [*tasks(), bad])
    assert plan.tasks["bad"].records.stream == "tasks.bad.train_stream"
    assert plan.tasks["mood"].validation is not None
    assert plan.tasks["mood"].validation.stream == "tasks.mood.val_stream"


def test_a_model_in_memory_is_taken_as_it_is(llama: BaseModel) -> None:
    plan = source_plan(llama, resource=True)
    assert plan.base_model() is llama
    tune_source(plan, llama)


def test_what_decides_is_in_the_digest(llama: BaseModel) -> None:
    digest = source_plan(llama).digest
    assert source_plan(llama, silence_progress_bars=False).digest == digest
    changed: list[dict[str, Any]] = [
        {"seed": 4},
        {"num_ranks": 2},
        {"state_weight": 0.1},
        {"state_weight": 0.1, "state_layers": [1]},
        {"of": tasks()[:2]},
    ]
    changed += [{"of": tasks()[::-1]}, {"of": tasks(validated=False)}]
    digests = {source_plan(llama, **one).digest for one in changed}
    assert len(digests) == len(changed)
    assert digest not in digests


def test_limits_of_the_operator_hold(llama: BaseModel) -> None:
    settings = replace(SETTINGS, tuning_limits={"num_epochs": (1, 3)})
    with pytest.raises(InvalidParameter, match="num_epochs: 4"):
        make_source_plan({"base_model": llama.checkpoint.name, "num_epochs": 4}, tasks(), settings)


def test_the_two_tables_have_no_name_in_common() -> None:
    names = [parameter.name for parameter in (*TUNING_PARAMETERS, *SOURCE_PARAMETERS)]
    assert len(set(names)) == len(names)
