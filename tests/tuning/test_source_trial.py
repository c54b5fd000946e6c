"""`prompt_tuning_init_source_model: auto`: what is tried, what it costs, what is chosen and told of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, InvalidSourcePrompt, TrainingInterrupted
from caikit_pt.runtime.plan_files import read_plan, write_plan
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_start import SourceStart
from caikit_pt.tuning import source_trial
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_trial import Course, course_of
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.verdict import sentences
from tests.conftest import BASE_MODELS
from tests.whole import WHOLE

from .test_snapshot import Interrupting, same
from .training import PAIRS, plan

MPT = "MULTITASK_PROMPT_TUNING"
TOKENS = 4


def source(name: str, tasks: dict[str, torch.Tensor]) -> SourcePrompt:
    """One whose tasks have just these prompts [P, H]: ones times the identity times each."""
    rows = torch.stack(list(tasks.values()))
    count, tokens, width = rows.shape
    identity = torch.eye(tokens).expand(count, -1, -1).contiguous()
    return SourcePrompt(name, torch.ones(tokens, width), identity, rows, 1, tuple(tasks))


@pytest.fixture(scope="module", params=["llama", "t5"])
def base(request: pytest.FixtureRequest) -> BaseModel:
    found: BaseModel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Path:
    """`own` has the tasks noise and mood, the second of which was tuned on the records; `far` has none."""
    root = tmp_path_factory.mktemp("sources")
    tuned = tune(plan(base, PAIRS, num_epochs=12), base).prompt
    (rows,) = tuned.tensors.values()
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(4)) * rows.std()
    published = SourceLibrary(root)
    published.publish("own", source("own", {"noise": noise, "mood": rows}), base.checkpoint)
    published.publish("far", SourcePrompt("far", 3 * noise), base.checkpoint)
    return root


def planned(base: BaseModel, library: Path, records: Sequence[Any] = PAIRS, **request: Any) -> TuningPlan:
    asked = {
        "base_model": base.checkpoint.name,
        "tuning_type": MPT,
        "prompt_tuning_init_source_model": "auto",
        "num_epochs": 20,
        "batch_size": 5,
        "learning_rate": 0.03,
        **request,
    }
    settings = Settings(base_models_dir=str(BASE_MODELS), source_prompt_base=str(library))
    return make_plan(asked, records, None, settings)


# ---- what it costs ----


@pytest.mark.parametrize("starts", [2, 3, 5, 12, 40, 1000])
@pytest.mark.parametrize("updates", [8, 20, 79, 80, 460, 100_000])
@pytest.mark.parametrize("window", [2, 8, 64])
def test_a_trial_costs_a_tenth_of_the_training_at_most(starts: int, updates: int, window: int) -> None:
    course = course_of(starts, updates, window)
    assert 2 <= course.starts <= starts
    assert 1 <= course.records <= 64
    left, before, cost = course.starts, 0, 0.0
    if 0 in course.rungs:
        cost += course.starts * course.records / window / 3
    for step, going_on in course.rungs.items():
        cost += (left - 1) * (step - before)
        assert going_on < left
        left, before = going_on, step
    assert left == 1
    assert cost <= min(0.1 * updates, 48) + 1e-9


def test_few_updates_are_worth_losses_alone() -> None:
    assert course_of(12, 40, 8) == Course(12, 8, {0: 1})
    assert course_of(12, 460, 8) == Course(12, 46, {0: 4, 3: 2, 14: 1})
    # Whom nobody has time to look at isn't tried, but for two.
    assert course_of(40, 20, 4).starts == 24
    assert course_of(40, 1, 4) == Course(2, 1, {0: 1})


def test_it_is_counted_in_the_updates_that_are_made(base: BaseModel, library: Path) -> None:
    made = [0, 0]

    def counted(of: BaseModel, learners: Sequence[Learner], batches: Any) -> list[torch.Tensor]:
        made[0] += 1
        made[1] += len(learners)
        return gradients(of, learners, batches)

    tuned = tune(planned(base, library, num_epochs=25), base, gradients=counted)
    assert made[0] == 100
    assert 100 < made[1] <= 110
    assert len([one for one in tuned.training_logs if one["name"] == "loss"]) == 100


# ---- what is chosen ----


def test_the_task_that_knows_the_records_is_chosen(base: BaseModel, library: Path) -> None:
    tuned = tune(planned(base, library), base)
    sources = tuned.verdict["sources"]
    kept = [start for start in sources["starts"] if start["kept"]]
    assert kept == [one for one in sources["starts"] if (one["source"], one["task"]) == ("own/1", 1)]
    assert (kept[0]["method"], kept[0]["task_name"]) == ("EXACT_SOURCE_TASK", "mood")
    assert sources["lead"]["loss"] > 0
    assert sources["lead"]["probability"] > 0.9
    parameters = tuned.tuning_parameters
    assert parameters["prompt_tuning_init_source_model"] == "own/1"
    assert parameters["prompt_tuning_init_method"] == "EXACT_SOURCE_TASK"
    assert parameters["prompt_tuning_init_task"] == 1
    assert parameters["origins"]["prompt_tuning_init_task"] == "the trial of source prompts"
    expected = SourceLibrary(library).read("own").task("mood")
    (initial,) = tuned.initial.values()
    assert torch.equal(initial, expected)
    (sentence,) = [line for line in sentences(tuned.verdict) if "trial" in line]
    assert "chose task mood of own/1" in sentence
    assert "better with a probability of" in sentence


def test_what_it_chooses_is_trained_as_if_it_had_been_named(base: BaseModel, library: Path) -> None:
    # In a trial without updates; others share passes, and round differently.
    chosen = tune(planned(base, library, num_epochs=15), base)
    named = tune(
        planned(
            base,
            library,
            prompt_tuning_init_source_model="own",
            prompt_tuning_init_method="EXACT_SOURCE_TASK",
            prompt_tuning_init_task="mood",
            num_epochs=15,
        ),
        base,
    )
    for part, tensor in named.prompt.tensors.items():
        assert torch.equal(chosen.prompt.tensors[part], tensor)


def test_losses_before_anything_is_learnt_are_those_of_the_slow_way(base: BaseModel, library: Path) -> None:
    """Record by record, each start alone."""
    plan_ = planned(base, library)
    tuned = tune(plan_, base)
    texts = base.text
    told = tuned.verdict["sources"]["starts"]
    assert [one["source"] for one in told] == ["far/1", "own/1", "own/1", "own/1", ""]
    from caikit_pt.tuning.examples import make_examples

    examples = make_examples(plan_.records, texts, plan_.parameters)
    course = course_of(5, 80, 5)
    assert course.rungs == {0: 4, 1: 2, 2: 1} or 0 in course.rungs
    some = source_trial._some(examples, course.records)
    for start, one in zip(plan_.starts, told, strict=False):
        alone = [
            losses(base, [start.prompt.tensors], examples_of([example])).item() / len(example.target)
            for example in some.items
        ]
        assert one["losses"][0]["step"] == 0
        assert one["losses"][0]["loss"] == pytest.approx(sum(alone) / len(alone), rel=1e-4)


def examples_of(items: Sequence[Any]) -> Any:
    from caikit_pt.base_model.row import TrainingBatch

    return TrainingBatch([item.source for item in items], [item.target for item in items])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            None,
            [
                "AVERAGE_SOURCE of far/1",
                "AVERAGE_SOURCE of own/1",
                "task noise of own/1",
                "task mood of own/1",
            ],
        ),
        ("EXACT_SOURCE_TASK", ["task noise of own/1", "task mood of own/1"]),
        ("AVERAGE_SOURCE", ["AVERAGE_SOURCE of far/1", "AVERAGE_SOURCE of own/1"]),
        ("AVERAGE_SOURCE_TASKS", ["AVERAGE_SOURCE of far/1", "AVERAGE_SOURCE of own/1"]),
        ("ONLY_SOURCE_SHARED", ["ONLY_SOURCE_SHARED of far/1", "ONLY_SOURCE_SHARED of own/1"]),
    ],
)
def test_a_method_says_among_which_starts(
    base: BaseModel, library: Path, method: str | None, expected: list[str]
) -> None:
    found = planned(base, library, prompt_tuning_init_method=method)
    assert list(map(str, found.starts)) == expected
    assert found.source is None
    assert found.parameters.num_virtual_tokens == TOKENS
    assert not [line for line in found.warnings if "ignored" in line]


def test_what_there_is_no_time_for_is_told(
    base: BaseModel, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = tune(planned(base, library, PAIRS[:4], num_epochs=1), base)
    assert "3 of the source prompts' starts aren't tried" in caplog.text
    assert len(tuned.verdict["sources"]["starts"]) == 2


def test_sources_of_other_lengths_are_tried_together(base: BaseModel, library: Path, tmp_path: Path) -> None:
    for name, tokens in (("short", 2), ("long", 7)):
        rows = torch.ones(tokens, base.checkpoint.hidden_size)
        SourceLibrary(tmp_path).publish(name, SourcePrompt(name, rows), base.checkpoint)
    found = planned(base, tmp_path)
    assert found.parameters.num_virtual_tokens == 7
    tuned = tune(found, base)
    assert tuned.prompt.num_virtual_tokens == tuned.tuning_parameters["num_virtual_tokens"]
    assert planned(base, tmp_path, num_virtual_tokens=2).starts[0].source == "short/1"
    with pytest.raises(InvalidSourcePrompt, match="2, 7"):
        planned(base, tmp_path, num_virtual_tokens=3)


# ---- it goes on ----


def test_it_goes_on_from_anywhere_in_a_trial(base: BaseModel, library: Path, tmp_path: Path) -> None:
    """With the bits of a training that nobody interrupted, its scores included."""
    whole = tune(planned(base, library, num_epochs=25), base)
    for end in (1, 2, 3, 5, 60) if WHOLE else (2, 60):
        folder = tmp_path / str(end)
        snapshots = Interrupting(folder, set(), end, gracefully=True)
        with pytest.raises(TrainingInterrupted):
            tune(planned(base, library, num_epochs=25), base, snapshots.saw, snapshots=snapshots)
        again = tune(planned(base, library, num_epochs=25), base, snapshots=Snapshots(folder, 1e9))
        assert same(again, whole)


def test_a_job_keeps_the_starts_of_its_submission(base: BaseModel, library: Path, tmp_path: Path) -> None:
    found = planned(base, library)
    write_plan(tmp_path, found)
    again = read_plan(tmp_path)
    assert list(map(str, again.starts)) == list(map(str, found.starts))
    for one, other in zip(again.starts, found.starts, strict=True):
        assert (one.source, one.method, one.task) == (other.source, other.method, other.task)
        for part, rows in other.prompt.tensors.items():
            assert torch.equal(one.prompt.tensors[part], rows)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"prompt_tuning_init_task": 1}, "tuning_config.prompt_tuning_init_task"),
        ({"prompt_tuning_init_task": "mood"}, "tuning_config.prompt_tuning_init_task_name"),
        ({"search": "auto"}, "search"),
        ({"num_virtual_tokens": 9}, "tuning_config.num_virtual_tokens"),
    ],
)
def test_what_contradicts_a_choice_is_refused(
    base: BaseModel, library: Path, request_: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter) as error:
        planned(base, library, **request_)
    assert error.value.field == field


def test_without_sources_there_is_nothing_to_choose(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidSourcePrompt, match="none to choose from"):
        planned(base, tmp_path)
    with pytest.raises(InvalidSourcePrompt, match="SOURCE_PROMPT_BASE"):
        planned(base, tmp_path / "nowhere")
    SourceLibrary(tmp_path).publish(
        "far", SourcePrompt("far", torch.ones(3, base.checkpoint.hidden_size)), base.checkpoint
    )
    with pytest.raises(InvalidSourcePrompt, match="with tasks"):
        planned(base, tmp_path, prompt_tuning_init_method="EXACT_SOURCE_TASK")


def test_a_plain_start_ignores_it_with_a_warning(base: BaseModel, library: Path) -> None:
    for request_ in ({"tuning_type": "PROMPT_TUNING"}, {"prompt_tuning_init_method": "RANDOM"}):
        found = planned(base, library, **request_)
        assert not found.starts
        assert any("prompt_tuning_init_source_model is ignored" in line for line in found.warnings)


def test_what_is_damaged_is_passed_over(
    base: BaseModel, library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("whole", "torn"):
        rows = torch.ones(3, base.checkpoint.hidden_size)
        SourceLibrary(tmp_path).publish(name, SourcePrompt(name, rows), base.checkpoint)
    (tmp_path / "torn" / "1" / "adapter_model.safetensors").write_bytes(b"half")
    assert [start.source for start in planned(base, tmp_path).starts] == ["whole/1"]
    assert "torn/1 is passed over" in caplog.text


def test_nothing_is_published_as_auto(base: BaseModel, tmp_path: Path) -> None:
    rows = torch.ones(3, base.checkpoint.hidden_size)
    with pytest.raises(InvalidSourcePrompt, match="choose its source"):
        SourceLibrary(tmp_path).publish("auto", SourcePrompt("auto", rows), base.checkpoint)


def test_the_default_of_the_base_model_comes_first(base: BaseModel, tmp_path: Path) -> None:
    """It is what a request without a name starts from, and has the benefit of the doubt."""
    rows = torch.ones(3, base.checkpoint.hidden_size)
    for name, default in (("a", False), ("b", True), ("c", False)):
        SourceLibrary(tmp_path).publish(name, SourcePrompt(name, rows), base.checkpoint, default=default)
    assert [start.source for start in planned(base, tmp_path).starts] == ["b/1", "a/1", "c/1"]
    kept = [one for one in tune(planned(base, tmp_path), base).verdict["sources"]["starts"] if one["kept"]]
    assert [one["source"] for one in kept] == ["b/1"]


def test_a_start_says_what_it_is() -> None:
    rows = SoftPrompt({"DECODER": torch.ones(2, 3)})
    starts = [
        SourceStart("one/2", "AVERAGE_SOURCE", rows),
        SourceStart("one/2", "EXACT_SOURCE_TASK", rows, 3),
        SourceStart("one/2", "EXACT_SOURCE_TASK", rows, 3, "mood"),
    ]
    assert list(map(str, starts)) == ["AVERAGE_SOURCE of one/2", "task 3 of one/2", "task mood of one/2"]
    assert all(one.parameters["num_virtual_tokens"] == 2 for one in starts)
    assert len({tuple(one.parameters) for one, _ in itertools.pairwise(starts)}) == 2
