"""Jobs that make a source: what is on disk of their plan, and what they publish. Nothing is trained."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import CaikitPtError, QuotaExceeded
from caikit_pt.parameters.source import SHARED_PARAMETERS, SOURCE_PARAMETERS
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.follower import Follower
from caikit_pt.runtime.job import COMPLETED, RUNNING, SOURCE, Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.makings import SOURCES, making_of
from caikit_pt.runtime.training_quotas import TrainingQuotas
from caikit_pt.runtime.tuning_messages import SourceTrainingParameters
from caikit_pt.settings import Quotas, QuotasOfEach
from caikit_pt.soft_prompt.source_bundle import write_bundle
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_manifest import Recipe
from tests.soft_prompt.sources import RECIPE, TASKS, drawn
from tests.tuning.sources import source_plan

from .test_follower import Board

CAME_TO: Recipe = {"course": "settled", "kept_epoch": 2, "kept_update": 8, "skipped_updates": 0}


def job(path: Path, id: str = "one", default: bool = False, **parameters: Any) -> Job:
    return Job(
        id=id,
        model_name="group/mine",
        path=str(path / "group" / "mine"),
        digest="d",
        parameters={**parameters, "default": default},
        submitted=1.0,
        makes=SOURCE,
    )


@pytest.fixture
def made(tmp_path: Path, llama: BaseModel) -> Path:
    """What a training has left."""
    directory = tmp_path / "artifact"
    directory.mkdir()
    write_bundle(drawn(llama.checkpoint), llama.checkpoint, directory, TASKS, {**RECIPE, **CAME_TO})
    return directory


def test_a_plan_comes_back_as_it_was(llama: BaseModel, tmp_path: Path) -> None:
    """With the digest by which its snapshots are known again; nothing of it outlasts the job."""
    plan = source_plan(llama, num_ranks=2, learning_rate=0.1 + 0.2)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(tmp_path, **plan.to_dict()), plan)
    found = folder.plan()
    assert found.names == ("mood", "named", "word")
    assert found.digest == plan.digest
    assert found.parameters == plan.parameters
    assert [len(stream) if stream else 0 for stream in found.streams] == [10, 6, 6, 0, 7, 4]
    assert found.tasks["named"].records.stream == "tasks.named.train_stream"
    accepted = folder.job()
    assert accepted is not None
    assert (accepted.makes, accepted.parameters["tasks"][1]["verbalizer"]) == (SOURCE, "Name it: {{input}}")
    folder.end(dataclasses.replace(accepted, state=COMPLETED))
    assert sorted(path.name for path in folder.directory.iterdir()) == ["job.json", "outcome.json"]


def test_a_job_publishes_once(made: Path, tmp_path: Path) -> None:
    """However often it does, as after a crash before that was noted; another one publishes its own."""
    root = tmp_path / "sources"
    root.mkdir()
    assert SOURCES.publish(job(root), made, lambda: None) == "group/mine/1"
    assert SOURCES.publish(job(root, "two", default=True), made, lambda: None) == "group/mine/2"
    assert SOURCES.publish(job(root), made, lambda: None) == "group/mine/1"
    assert sorted(path.name for path in (root / "group" / "mine").iterdir()) == [".lock", "1", "2"]
    first, second = (SourceLibrary(root).read(f"group/mine/{version}").manifest for version in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.recipe["training_id"], first.default) == ("one", False)
    assert (second.recipe["training_id"], second.default) == ("two", True)
    assert first.sha256 == second.sha256
    assert SOURCES.verdict(SOURCES.place(job(root), "group/mine/2")) == SOURCES.verdict(made)


def test_one_that_is_no_longer_wanted_publishes_nothing(made: Path, tmp_path: Path) -> None:
    class Unwanted(Exception):
        pass

    def check() -> None:
        raise Unwanted

    root = tmp_path / "sources"
    root.mkdir()
    with pytest.raises(Unwanted):
        SOURCES.publish(job(root), made, check)
    assert [path.name for path in (root / "group" / "mine").iterdir()] == [".lock"]


def test_its_verdict_is_that_of_each_task(made: Path) -> None:
    verdict = SOURCES.verdict(made)
    assert verdict["tasks"][0]["metrics"] == TASKS[0].metrics
    told = SOURCES.sentences(verdict, "group/mine/1")
    assert told == [
        "Published as the source prompt group/mine/1.",
        "The course of the loss: settled. Kept is the source after epoch 2, update 8.",
        "mood, on its validation records: accuracy 0.875, loss 0.250.",
    ]
    assert SOURCES.sentences({}, "group/mine/1") == told[:1]


def test_a_tracker_keeps_the_version_that_was_published(made: Path, tmp_path: Path) -> None:
    """And registers no model of it; the version of another job isn't taken for it."""
    root = tmp_path / "sources"
    root.mkdir()
    store = JobStore(tmp_path / "state", ["Board"])
    for id in ("one", "two"):
        added = store.add(job(root, id))
        store.move(id, RUNNING)
        name = SOURCES.publish(added, made, lambda: None)
        store.add_event(id, kinds.VERDICT, SOURCES.verdict(made))
        store.add_event(id, kinds.ARTIFACT, {"model_name": name, "path": str(SOURCES.place(added, name))})
        store.move(id, COMPLETED)
    shutil.rmtree(root / "group" / "mine" / "2")
    board = Board()
    Follower(store, board, lambda: True).look()
    assert board.kept == [("", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"])]
    assert [store.published_as(one) for one in store.search()] == ["group/mine/2", "group/mine/1"]
    two = store.find("two")
    assert two is not None
    told = [event.data["text"] for event in store.events(two, kinds=[kinds.WARNING])]
    assert told == ["Board refuses it: its source is no longer where it was published"]


def test_quotas_count_the_records_of_all_tasks(llama: BaseModel) -> None:
    plan, store = source_plan(llama), None
    for most, is_allowed in ((33, True), (32, False)):
        quotas = TrainingQuotas(Quotas(each=QuotasOfEach(training_records=most)), store)  # type: ignore[arg-type]
        if is_allowed:
            quotas.check_records(plan.streams)
        else:
            with pytest.raises(QuotaExceeded, match="this training has 33 records"):
                quotas.check_records(plan.streams)


def test_the_first_records_of_each_task_are_looked_through(llama: BaseModel) -> None:
    found = SOURCES.look_through(source_plan(llama), most=9)
    assert list(found.tasks) == ["mood", "named", "word"]
    assert "mood: 3 of 10 records were looked through; the others are when their turn comes" in found.warnings
    assert any(told.startswith("named: 6 records are few") for told in found.warnings)


def test_every_parameter_has_a_field() -> None:
    names = [parameter.name for table in (SHARED_PARAMETERS, SOURCE_PARAMETERS) for parameter in table]
    assert list(SourceTrainingParameters.fields) == [name for name in names if name != "base_model"]


def test_what_a_later_release_makes_is_refused() -> None:
    with pytest.raises(CaikitPtError, match="This release knows no jobs that make a 'song'"):
        making_of("song")
