"""What a job has on disk is enough to have it again, and doesn't outlast it."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import BaseModelMismatch, CaikitPtError
from caikit_pt.runtime.job import COMPLETED, QUEUED, Job
from caikit_pt.runtime.job_folder import JobFolder, folders
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import TuningPlan, make_plan
from tests.conftest import SETTINGS
from tests.soft_prompt.sources import published, same_bits
from tests.soft_prompt.test_initial import continued, predecessor
from tests.tuning.training import PAIRS

SECRET = "a text that is nobody's business"


def job(plan: TuningPlan) -> Job:
    return Job(
        id="one",
        model_name="m",
        path="/m",
        digest="d",
        parameters=plan.parameters.to_dict(),
        submitted=12.5,
        memory=7,
        least_memory=5,
    )


def plan_of(base: BaseModel, settings: Settings = SETTINGS, **request: Any) -> TuningPlan:
    records = [*PAIRS[:10], {"input": SECRET, "output": "ünicode\n\u2028"}]
    return make_plan({"base_model": base.checkpoint.name, **request}, records, PAIRS[10:], settings)


def test_a_plan_comes_back_as_it_was(base: BaseModel, tmp_path: Path) -> None:
    plan = plan_of(base, num_virtual_tokens=3, learning_rate=0.1 + 0.2)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    found = folder.plan()
    for field in dataclasses.fields(TuningPlan):
        if field.name not in ("checkpoint", "limits"):
            assert getattr(found, field.name) == getattr(plan, field.name), field.name
    assert found.records.items[3].number == 4
    assert found.checkpoint.directory == plan.checkpoint.directory
    assert folder.job() == dataclasses.replace(job(plan))


def test_a_source_prompt_comes_back(t5: BaseModel, source_prompts: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, source_prompt_base=str(source_prompts))
    multitask = {"tuning_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_method": "AVERAGE_SOURCE"}
    plan = plan_of(t5, settings, prompt_tuning_init_source_model="tiny-t5-good", **multitask)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    assert plan.source is not None
    found = folder.plan().source
    assert found is not None
    assert torch.equal(found.average(), plan.source.average())


def test_both_sides_and_the_tasks_of_a_source_come_back(t5: BaseModel, tmp_path: Path) -> None:
    """Whatever becomes of the source that was found."""
    root = tmp_path / "sources"
    root.mkdir()
    published(root, t5.checkpoint, submodules=2)
    settings = dataclasses.replace(SETTINGS, source_prompt_base=str(root))
    multitask = {"tuning_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_method": "EXACT_SOURCE_TASK"}
    plan = plan_of(t5, settings, prompt_tuning_init_task="urgency", **multitask)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    shutil.rmtree(root)
    found, given = folder.plan().source, plan.source
    assert found is not None
    assert given is not None
    assert (found.name, found.submodules, found.tasks) == ("mine/1", 2, ("mood", "urgency"))
    for part in ("ENCODER", "DECODER"):
        assert same_bits(found.on(part).task(1), given.on(part).task(1))
    assert folder.plan().parameters == plan.parameters


@pytest.mark.parametrize("tasks", [True, False])
def test_a_source_prompt_of_an_earlier_release_comes_back(
    t5: BaseModel, source_prompts: Path, tmp_path: Path, tasks: bool
) -> None:
    """It kept the matrices of the tasks, [N, P, H], and of the rest its name alone."""
    settings = dataclasses.replace(SETTINGS, source_prompt_base=str(source_prompts))
    multitask = {"tuning_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_method": "AVERAGE_SOURCE"}
    plan = plan_of(t5, settings, **multitask)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    given = plan.source
    assert given is not None
    assert given.matrices is not None
    kept = {"shared": given.shared, **({"tasks": given.matrices} if tasks else {})}
    save_file(kept, folder.directory / "source.safetensors")
    described = json.loads((folder.directory / "plan.json").read_text())
    described["source"] = given.name
    (folder.directory / "plan.json").write_text(json.dumps(described))
    found = folder.plan().source
    assert found is not None
    assert (found.name, found.num_tasks) == (given.name, 2 * tasks)
    assert same_bits(found.average(), given.average() if tasks else given.shared)
    assert not tasks or same_bits(found.task(1), given.task(1))


def test_a_prompt_to_go_on_from_comes_back(base: BaseModel, tmp_path: Path) -> None:
    """Whatever has become of the one that was published; a search beside it, too."""
    before = predecessor(base, labels=("mixed",))
    plan = continued(before, search="auto")
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    found = folder.plan()
    assert found.parameters == plan.parameters
    assert found.initial is not None
    assert (found.initial.name, found.initial.labels) == ("mood", ("mixed",))
    for part, rows in before.tuned.prompt.tensors.items():
        assert torch.equal(found.initial.prompt.tensors[part].view(torch.int32), rows.view(torch.int32))
    folder.end(dataclasses.replace(job(plan), state=COMPLETED))
    assert not (folder.directory / "initial.safetensors").exists()


def test_when_it_has_ended_its_records_are_gone(llama: BaseModel, tmp_path: Path) -> None:
    plan = plan_of(llama)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    snapshots = folder.run(1).snapshots
    snapshots.mkdir(parents=True)
    (snapshots / "000000001.json").write_text("{}")
    folder.log.write_text("log")
    ended = dataclasses.replace(job(plan), state=COMPLETED, reasons=["good"], started=13.0, ended=14.0)
    folder.end(ended)
    assert sorted(path.name for path in folder.directory.iterdir()) == ["job.json", "log.txt", "outcome.json"]
    assert all(SECRET not in path.read_text() for path in folder.directory.iterdir())
    assert folder.job() == ended


def test_what_its_process_leaves_last_is_gone_too(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still write in its directory while that is removed."""
    plan = plan_of(llama)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    run = folder.run(1)
    run.snapshots.mkdir(parents=True)
    rmtree, writes = shutil.rmtree, iter([True, True, False])

    def removed(path: Path) -> None:
        if path.name == "runs" and next(writes):
            run.alive.write_text("1")
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", removed)
    folder.end(dataclasses.replace(job(plan), state=COMPLETED))
    assert sorted(path.name for path in folder.directory.iterdir()) == ["job.json", "outcome.json"]


def test_a_half_written_folder_is_no_job(llama: BaseModel, tmp_path: Path) -> None:
    plan = plan_of(llama)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    (folder.directory / "job.json").unlink()
    assert folder.job() is None
    assert [one.directory.name for one in folders(tmp_path)] == ["one"]
    assert list(folders(tmp_path / "nowhere")) == []


def test_a_disk_that_is_full_leaves_nothing(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    plan = plan_of(llama)
    with pytest.raises(OSError, match="No space left"):
        JobFolder(tmp_path / "one").create(job(plan), plan)
    assert not (tmp_path / "one").exists()


def test_damage_and_other_weights_are_told(llama: BaseModel, tmp_path: Path) -> None:
    plan = plan_of(llama)
    folder = JobFolder(tmp_path / "one")
    folder.create(job(plan), plan)
    file = folder.directory / "plan.json"
    described = json.loads(file.read_text())
    described["base_model"]["fingerprint"] = "sha256:other"
    file.write_text(json.dumps(described))
    with pytest.raises(BaseModelMismatch, match="Submit it again"):
        folder.plan()
    described["records"]["count"] += 1
    file.write_text(json.dumps(described))
    with pytest.raises(CaikitPtError, match="can't be read"):
        folder.plan()
    file.unlink()
    with pytest.raises(CaikitPtError, match="can't be read"):
        folder.plan()
    assert job(plan).state == QUEUED
