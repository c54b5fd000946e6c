"""A source training: what its updates see, what is kept, and that it goes on from wherever it was ended."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.layers.reading import LAST
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.base_model.training import causal
from caikit_pt.errors import InvalidParameter, TrainingDiverged, TrainingInterrupted
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_manifest import data_sha256
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning import task_learner, teaching
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import SourcePlan
from caikit_pt.tuning.source_progress import SOURCES, TEACHERS, SourceProgress, TaskValidated
from caikit_pt.tuning.source_tuner import tune_source
from caikit_pt.tuning.teaching import Teaching
from caikit_pt.tuning.tuner import tune
from tests.whole import WHOLE

from .sources import same_source, source_plan, tasks
from .test_snapshot import Interrupting
from .training import PAIRS, curve, spoilt, validation_loss

TAUGHT: dict[str, Any] = {"teacher_epochs": 3, "distillation_weight": 0.5}
STOPPING: dict[str, Any] = {
    "of": tasks(contradicting=True),
    "num_epochs": 4,
    "teacher_epochs": 6,
    "teacher_learning_rate": 10.0,
    "validation_steps": 1,
    "early_stopping_patience": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "alone": {},
    "ranks": {"num_ranks": 3, "most_records": 5, "optimizer": "adafactor"},
    "taught": {**TAUGHT, "state_weight": 0.2, "distillation_temperature": 2.0},
    "stopping": STOPPING,
}


def ran(plan: SourcePlan, base: BaseModel) -> tuple[TrainedSource, list[SourceProgress], list[TaskValidated]]:
    """A whole training, and what it told."""
    updates: list[SourceProgress] = []
    exams: list[TaskValidated] = []
    return tune_source(plan, base, updates.append, on_validation=exams.append), updates, exams


def test_training_lowers_the_loss(base: BaseModel) -> None:
    plan = source_plan(base, num_epochs=12, prompt_tuning_init_method="SAMPLE_VOCAB")
    trained, updates, _ = ran(plan, base)
    values = [one.loss for one in updates]
    assert sum(values[-5:]) < 0.6 * sum(values[:5])
    assert (trained.source.tasks, trained.source.num_ranks) == (("mood", "named", "word"), 1)
    assert trained.source.submodules == 1
    assert not torch.equal(*(trained.source.task(name) for name in ("mood", "word")))


def test_the_first_update_is_that_of_the_obvious_loss(base: BaseModel) -> None:
    """The mean over all target tokens of the window, of each row behind the prompt of its task."""
    plan = source_plan(base, num_ranks=2)
    seen: list[tuple[float, float]] = []
    real = task_learner.TaskLearner.gradients

    def watched(self: Any, base: BaseModel, batch: Any, teaching: Any = None) -> torch.Tensor:
        loss = real(self, base, batch, teaching)
        prompts = self.prompts.prompts(range(3))
        rows = base.training.padded_targets([prompts[task] for task in batch.prompts], batch).losses()
        expected = rows.sum() / batch.target_tokens
        wanted = torch.autograd.grad(expected, list(self.prompts.tensors))
        for weight, gradient in zip(self.prompts.tensors, wanted, strict=True):
            assert (weight.grad - gradient).norm() <= 2e-3 * gradient.norm()
        seen.append((float(loss), expected.item()))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_learner.TaskLearner, "gradients", watched)
        _, updates, _ = ran(plan, base)
    assert [one.loss for one in updates] == [loss for loss, _ in seen]
    assert [loss for loss, _ in seen] == pytest.approx([loss for _, loss in seen], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_has_the_same_bits(llama: BaseModel, kind: str) -> None:
    """Whatever the global state is, and another seed others."""
    torch.manual_seed(1)
    first = tune_source(source_plan(llama, **KINDS[kind]), llama)
    torch.manual_seed(2)
    random.seed(3)
    assert same_source(tune_source(source_plan(llama, **KINDS[kind]), llama), first)
    assert not same_source(tune_source(source_plan(llama, seed=5, **KINDS[kind]), llama), first)


def test_kept_is_the_state_with_the_lowest_mean_of_the_validation_losses(base: BaseModel) -> None:
    plan = source_plan(base, num_epochs=6, learning_rate=3.0)
    trained, _, exams = ran(plan, base)
    means = [one.found for one in exams if not one.task]
    assert [one.epoch for one in means] == [1, 2, 3, 4, 5, 6]
    lowest = min(one.scores["loss"] for one in means)
    assert trained.recipe["validation_loss"] == lowest
    assert [one.step for one in means if one.best][-1] == trained.recipe["kept_update"]
    losses = [
        validation_loss(
            plan.tasks[name], base, trained.source.prompt_of(name, plan.training.output_model_types).tensors
        )
        for name in ("mood", "word")
    ]
    assert sum(losses) / 2 == pytest.approx(lowest, rel=1e-5)
    assert [task.metrics["loss"] for task in trained.tasks if task.name != "named"] == pytest.approx(
        losses, rel=1e-5
    )


def test_without_validation_the_last_is_kept(llama: BaseModel) -> None:
    trained, updates, exams = ran(source_plan(llama, tasks(validated=False)), llama)
    assert not exams
    assert trained.recipe["kept_update"] == updates[-1].step == updates[-1].steps
    assert all(task.metrics == {} for task in trained.tasks)


def test_progress_is_told(llama: BaseModel) -> None:
    _, updates, _ = ran(source_plan(llama, **TAUGHT), llama)
    assert [one.step for one in updates] == list(range(1, updates[-1].steps + 1))
    assert [one.phase for one in updates] == [TEACHERS] * 6 + [SOURCES] * 8
    assert updates[-1].samples == updates[-1].samples_in_all == 5 * 23
    assert updates[-1].eta_seconds == 0 < updates[0].eta_seconds
    assert updates[5].samples == 3 * 23


@pytest.mark.parametrize("kind", ["taught", "stopping"])
def test_teachers_are_what_they_would_be_alone(base: BaseModel, kind: str) -> None:
    """To the last bit, where each has passes of its own."""
    plan = source_plan(base, **KINDS[kind])
    exams: list[TaskValidated] = []
    trained = tune_source(plan, base, gradients=_apart, on_validation=exams.append)
    for task, planned in zip(trained.tasks, plan.teachers.values(), strict=True):
        alone = tune(planned, base)
        own = [one.found for one in exams if (one.phase, one.task) == (TEACHERS, task.name)]
        assert [one.scores["loss"] for one in own] == curve(alone, "validation_loss")
        if planned.validation:
            loss = validation_loss(planned, base, alone.prompt.tensors)
            assert task.metrics["teacher_loss"] == pytest.approx(loss, rel=1e-6)
    if kind == "stopping":
        assert len([one for one in exams if (one.phase, one.task) == (TEACHERS, "mood")]) < 12
    assert trained.recipe["teachers"] is True


def test_teachers_that_share_passes_are_the_same_to_rounding(base: BaseModel) -> None:
    plan = source_plan(base, **TAUGHT)
    apart, together = tune_source(plan, base, gradients=_apart), tune_source(plan, base)
    for one, other in zip(apart.tasks, together.tasks, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        losses = [found.metrics.get("teacher_loss", 0.0) for found in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def _apart(
    base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]
) -> list[torch.Tensor]:
    pairs = zip(learners, batches, strict=True)
    return [loss for learner, batch in pairs for loss in gradients(base, [learner], [batch])]


def test_what_teachers_say_is_learnt(base: BaseModel) -> None:
    """Alone with the seeds of its teachers, a source goes another way."""
    alone, taught = (tune_source(source_plan(base, **kind), base) for kind in ({}, TAUGHT))
    silent = tune_source(source_plan(base, teacher_epochs=3, distillation_weight=0.0), base)
    assert not torch.equal(alone.source.shared, taught.source.shared)
    assert torch.equal(alone.source.shared, silent.source.shared)
    assert silent.recipe["teachers"] is False


@pytest.mark.parametrize("most_kept", [2**29, 0])
def test_a_row_learns_from_the_teacher_of_its_task(
    base: BaseModel, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plain arithmetic of padded rows, in windows that lack a task."""
    monkeypatch.setattr(teaching, "_MOST_KEPT", most_kept)
    plan = source_plan(base, distillation_weight=0.7, distillation_temperature=2.0, state_weight=0.3)
    generator = torch.Generator().manual_seed(5)
    parts, width = plan.training.output_model_types, base.checkpoint.hidden_size
    teachers, (initial,) = (
        [{part: torch.randn(3, width, generator=generator) for part in parts} for _ in range(count)]
        for count in (3, 1)
    )
    prompts = TaskPrompts(SoftPrompt(initial), 3, 1, plan.training, generator)
    learner = task_learner.TaskLearner(prompts, plan.training, 10)
    taught_by, planned = Teaching(base, teachers, plan.parameters), plan.tasks["mood"]
    items = make_examples(planned.records, base.text, planned.parameters).batch(range(5))
    for owners in ([2, 0, 2, 0, 0], [1, 1, 0, 1, 0]):
        batch = TrainingBatch(items.sources, items.targets, owners)
        loss = learner.gradients(base, batch, taught_by)
        own = prompts.prompts(range(3))
        targets = base.training.padded_targets([own[task] for task in owners], batch)
        taught = base.training.padded_targets([teachers[task] for task in owners], batch)
        lost = (
            targets.losses()
            + 0.7 * targets.divergences(taught, 2.0)
            + 0.3 * targets.distances(taught, [LAST])
        )
        wanted = torch.autograd.grad(lost.sum() / batch.target_tokens, list(prompts.tensors))
        for weight, gradient in zip(prompts.tensors, wanted, strict=True):
            assert weight.grad is not None
            assert (weight.grad - gradient).norm() <= 2e-3 * gradient.norm()
        assert float(loss) == pytest.approx(targets.losses().sum().item() / batch.target_tokens, rel=1e-5)


def test_the_prompts_of_teachers_are_read_once(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """They don't change. Where there are too many of them to be kept, once an update."""
    reads, real = 0, causal._Front._read

    def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(*arguments)

    plan = source_plan(llama, tasks(validated=False), teacher_epochs=1)
    assert llama.training.trains_packed, "which is tried once"
    monkeypatch.setattr(causal._Front, "_read", counted)
    counts = []
    for most_kept in (2**29, 0):
        monkeypatch.setattr(teaching, "_MOST_KEPT", most_kept)
        reads = 0
        _, updates, _ = ran(plan, llama)
        counts.append(reads)
    assert counts[1] - counts[0] == sum(one.phase == SOURCES for one in updates) - 1


def test_states_that_can_not_be_had_are_refused(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llama.training), "has_states", False)
    with pytest.raises(InvalidParameter, match=r"state_weight: .* is not allowed.*table of words"):
        tune_source(source_plan(llama, state_weight=0.2), llama)
    tune_source(source_plan(llama, state_weight=0.2, state_layers=[1], teacher_epochs=1), llama)
    tune_source(source_plan(llama), llama)


def test_what_a_teacher_warns_of_is_told_with_its_task(
    llama: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    """And what was cut once, not by its teacher again."""

    def spoil(update: int, learner: Learner, loss: torch.Tensor) -> torch.Tensor:
        return loss * (math.nan if update == 2 else 1.0)

    plan = source_plan(llama, teacher_epochs=2, num_epochs=1, max_source_length=2)
    caplog.clear()
    tune_source(plan, llama, gradients=spoilt(gradients, spoil))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    skipped = [one for one in told if "which is skipped" in one]
    assert [one.partition(": ")[0] for one in skipped] == [
        f"the teacher of task {name}" for name in ("mood", "named", "word")
    ]
    assert skipped[0] == "the teacher of task mood: the loss is not finite at update 2 of 4, which is skipped"
    cut = [one for one in told if "max_source_length" in one]
    assert [one.partition(": ")[0] for one in cut] == ["mood", "named", "word"]


def test_a_training_that_diverges_ends(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = source_plan(llama, num_epochs=3)
    real, made = task_learner.TaskLearner.gradients, 0

    def spoiling(self: Any, *arguments: Any) -> torch.Tensor:
        nonlocal made
        made += 1
        return real(self, *arguments) * (math.nan if made in bad else 1.0)

    monkeypatch.setattr(task_learner.TaskLearner, "gradients", spoiling)
    bad = {2, 3, 5}
    assert tune_source(plan, llama).recipe["skipped_updates"] == 3
    made, bad = 0, set(range(4, 9))
    with pytest.raises(TrainingDiverged, match=r"not finite at update 8 of 12.*smaller learning_rate"):
        tune_source(plan, llama)


def test_a_teacher_that_diverges_is_named(llama: BaseModel) -> None:
    def spoiling(base: BaseModel, learners: Any, batches: Any) -> list[torch.Tensor]:
        first, *others = gradients(base, learners, batches)
        return [first * math.nan, *others]

    with pytest.raises(TrainingDiverged, match="The teacher of task mood: The loss is not finite"):
        tune_source(source_plan(llama, **TAUGHT), llama, gradients=spoiling)


# ---- snapshots ----


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_anywhere(base: BaseModel, kind: str, tmp_path: Path) -> None:
    plan = source_plan(base, **KINDS[kind])
    whole, told, _ = ran(plan, base)
    updates, rng = len(told), random.Random(kind)
    rounds = sum(one.phase == TEACHERS for one in told)
    ends = sorted({max(1, rounds), rounds + 1, updates, rng.randrange(1, updates)})
    for number, end in enumerate(ends if WHOLE else ends[1:3]):
        gracefully = number % 2 == 0
        kept = {step for step in range(1, end) if rng.random() < 0.5}
        snapshots = Interrupting(tmp_path / str(number), kept, end, gracefully)
        with pytest.raises(TrainingInterrupted if gracefully else KeyboardInterrupt):
            tune_source(plan, base, snapshots.saw, snapshots=snapshots)
        torch.manual_seed(number)
        again = tune_source(
            source_plan(base, **KINDS[kind]), base, snapshots=Snapshots(tmp_path / str(number), 1e9)
        )
        assert same_source(again, whole)


def test_it_goes_on_again_and_again(llama: BaseModel, tmp_path: Path) -> None:
    """Interrupted at every update of both phases, each time by another one; all is told once."""
    plan = source_plan(llama, **STOPPING)
    whole, told, exams = ran(plan, llama)
    updates: list[SourceProgress] = []
    found: list[TaskValidated] = []
    ended = 0
    while True:
        snapshots = Interrupting(tmp_path, set(), ended + 1, gracefully=True)

        def see(progress: SourceProgress, snapshots: Interrupting = snapshots) -> None:
            updates.append(progress)
            snapshots.saw(progress)

        try:
            trained = tune_source(plan, llama, see, snapshots=snapshots, on_validation=found.append)
        except TrainingInterrupted:
            ended += 1
            continue
        break
    assert ended == len(told)
    assert same_source(trained, whole)
    assert [(one.step, one.loss, one.samples) for one in updates] == [
        (one.step, one.loss, one.samples) for one in told
    ]
    assert found == exams


def test_what_nobody_has_heard_of_is_told_again(llama: BaseModel, tmp_path: Path) -> None:
    plan = source_plan(llama, **TAUGHT)
    _, told, exams = ran(plan, llama)
    snapshots = Interrupting(tmp_path, set(), 9, gracefully=True)
    with pytest.raises(TrainingInterrupted, match="at update 9 of 14"):
        tune_source(plan, llama, snapshots.saw, snapshots=snapshots)
    updates: list[SourceProgress] = []
    found: list[TaskValidated] = []
    again = Snapshots(tmp_path, 1e9, told=4)
    tune_source(plan, llama, updates.append, snapshots=again, on_validation=found.append)
    assert [(one.step, one.loss) for one in updates] == [(one.step, one.loss) for one in told[4:]]
    assert found == [one for one in exams if one.found.step > 4]


def test_snapshots_of_another_training_are_refused(llama: BaseModel, tmp_path: Path) -> None:
    snapshots = Interrupting(tmp_path, set(), 2, gracefully=True)
    with pytest.raises(TrainingInterrupted):
        tune_source(source_plan(llama), llama, snapshots.saw, snapshots=snapshots)
    for other in ({"learning_rate": 0.2}, {"num_ranks": 2}, {"of": tasks(validated=False)}):
        with pytest.raises(InvalidParameter, match=r"state: .*snapshots of another training"):
            tune_source(source_plan(llama, **other), llama, snapshots=Snapshots(tmp_path, 1e9))


# ---- what is published ----


def test_what_it_came_to_is_published_with_all_that_is_known(base: BaseModel, tmp_path: Path) -> None:
    plan = source_plan(base, num_ranks=2, **TAUGHT)
    trained = tune_source(plan, base)
    found = trained.publish("mine", library=SourceLibrary(tmp_path))
    assert torch.equal(found.shared, trained.source.shared)
    manifest = found.manifest
    assert manifest is not None
    assert (manifest.num_ranks, manifest.num_virtual_tokens, found.tasks) == (2, 3, plan.names)
    mood, named, word = manifest.tasks
    assert mood.data_sha256 == data_sha256((one["input"], one["output"]) for one in PAIRS[:10])
    assert (mood.records, named.records, word.records) == (10, 6, 7)
    assert (named.verbalizer, named.separator) == (
        "Name it: {{input}}",
        plan.tasks["named"].parameters.separator,
    )
    assert {"loss", "accuracy", "teacher_loss", "teacher_accuracy"} <= mood.metrics.keys()
    assert named.metrics == {}
    assert manifest.recipe["distillation_weight"] == 0.5
    assert manifest.recipe["output_model_types"] == plan.training.output_model_types


def test_both_sides_have_rows_of_their_own(t5: BaseModel, tmp_path: Path) -> None:
    plan = source_plan(t5, output_model_types=["ENCODER", "DECODER"], **TAUGHT)
    found = tune_source(plan, t5).publish("both", library=SourceLibrary(tmp_path))
    assert (found.submodules, found.num_virtual_tokens) == (2, 3)
    encoder, decoder = (found.on(part).shared for part in ("ENCODER", "DECODER"))
    assert not torch.equal(encoder, decoder)
