"""What a state_dir accepts, forgets and takes over. Nothing is trained."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import call as calls
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import BaseModelPool
from caikit_pt.call import Call
from caikit_pt.errors import (
    ClientLeft,
    InvalidParameter,
    InvalidRecord,
    QuotaExceeded,
    StateUnavailable,
    TooManyJobs,
)
from caikit_pt.module import PeftPromptTuning
from caikit_pt.principal import Principal
from caikit_pt.runtime.job import CANCELED, COMPLETED, ERRORED, QUEUED, RUNNING
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.makings import PROMPTS
from caikit_pt.runtime.state_directory import StateDirectory
from caikit_pt.runtime.supervisor import Supervisor
from caikit_pt.runtime.trainer import reasons
from caikit_pt.settings import Quotas, QuotasOfEach
from caikit_pt.tuning.preflight import preflight
from tests.conftest import SETTINGS
from tests.tuning.training import PAIRS, plan

from .jobs import job


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDirectory]:
    """One whose jobs stay queued."""
    monkeypatch.setattr(Supervisor, "start", lambda self: None)
    settings = replace(SETTINGS, state_dir=str(tmp_path / "state"), max_queued=3, retention_days=0)
    made = StateDirectory(settings, lambda path: None)
    yield made
    made.close()


def test_a_submission_is_on_disk_and_warned_of(directory: StateDirectory, llama: BaseModel) -> None:
    accepted = directory.accept(job("one"), plan(llama, [*PAIRS, PAIRS[0]]))
    assert (accepted.state, accepted.number) == (QUEUED, 1)
    assert directory.supervisor.folder("one").plan().records.items[0].input == PAIRS[0]["input"]
    told = reasons(directory.store, accepted)
    assert told[0] == "0 queued trainings are before it."
    assert "1 records are there before, word for word (record 21)" in told


def test_an_id_is_one_training(directory: StateDirectory, llama: BaseModel) -> None:
    planned = plan(llama)
    first = directory.accept(job("one"), planned)
    assert directory.accept(job("one"), planned) == first
    with pytest.raises(InvalidParameter, match="training_id: 'one'"):
        directory.accept(job("one", digest="another"), planned)
    assert directory.store.count([QUEUED]) == 1


def test_no_more_than_max_queued(directory: StateDirectory, llama: BaseModel) -> None:
    for id in "abc":
        directory.accept(job(id), plan(llama))
    with pytest.raises(TooManyJobs, match="max_queued"):
        directory.accept(job("d"), plan(llama))
    assert not directory.supervisor.folder("d").directory.exists()
    directory.supervisor.cancel(directory.store.find("a") or job("a"))
    assert directory.accept(job("d"), plan(llama)).state == QUEUED


def test_who_is_one_too_many_in_the_end_leaves_nothing(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others were accepted while it was written, at another server."""
    create = JobFolder.create

    def meanwhile(folder: JobFolder, *accepted: Any) -> None:
        create(folder, *accepted)
        for id in "abc":
            directory.store.add(job(id))

    monkeypatch.setattr(JobFolder, "create", meanwhile)
    with pytest.raises(TooManyJobs, match="3 trainings are queued"):
        directory.accept(job("d"), plan(llama))
    assert directory.store.find("d") is None
    assert not directory.supervisor.folder("d").directory.exists()


def test_what_is_refused_leaves_nothing(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StateUnavailable("the database is full")

    monkeypatch.setattr(directory.store, "add", full)
    with pytest.raises(StateUnavailable):
        directory.accept(job("one"), plan(llama))
    assert not directory.supervisor.folder("one").directory.exists()
    monkeypatch.setattr("caikit_pt.runtime.prompt_making.preflight", _refusing)
    with pytest.raises(InvalidRecord):
        directory.accept(job("two"), plan(llama))
    assert not directory.supervisor.folder("two").directory.exists()


@pytest.mark.parametrize("records", [10, 10_001])
def test_a_base_model_that_cannot_be_trained_makes_no_job(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """However many records there are; CheckTraining says the same."""

    def fail(*_: object) -> None:
        raise InvalidParameter("base_model", "tiny-llama", "others")

    planned = plan(llama, [{"input": f"a {number}", "output": "b"} for number in range(records)])
    monkeypatch.setattr(BaseModelPool, "check_training", fail)
    with pytest.raises(InvalidParameter, match="base_model"):
        directory.accept(job("one"), planned)
    assert not directory.supervisor.folder("one").directory.exists()
    with pytest.raises(CaikitRuntimeException, match="base_model"):
        PeftPromptTuning.preflight("tiny-llama", planned.records.items[:3], {"num_virtual_tokens": 3})


def _refusing(*_: object) -> None:
    raise InvalidRecord("train_stream", "1 records", "others")


def test_what_has_ended_is_kept_until_retention_days_are_over(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.accept(job("old"), plan(llama))
    directory.supervisor.cancel(job("old"))
    directory.accept(job("running"), plan(llama))
    monkeypatch.setattr("caikit_pt.runtime.state_directory.time.time", lambda: 4e9)
    directory.accept(job("later"), plan(llama))
    found = directory.store.find("old")
    assert found is not None
    assert found.state == CANCELED
    directory._settings = replace(directory._settings, retention_days=30)
    directory.accept(job("last"), plan(llama))
    assert directory.store.find("old") is None
    assert not directory.supervisor.folder("old").directory.exists()
    assert directory.store.find("running") is not None


def test_what_an_earlier_server_has_left_is_taken_over(
    tmp_path: Path, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "start", lambda self: None)
    settings = replace(SETTINGS, state_dir=str(tmp_path / "state"))
    first = StateDirectory(settings, lambda path: None)
    for id in ("queued", "running", "gone"):
        first.accept(job(id), plan(llama))
    first.store.move("running", RUNNING)
    first.supervisor.folder("gone").remove()
    half = first.supervisor.folder("half").directory
    half.mkdir()
    (half / "records.jsonl").write_text("")
    first.close()
    second = StateDirectory(settings, lambda path: None)
    states = {one.id: one.state for one in second.store.search()}
    assert states == {"queued": QUEUED, "running": QUEUED, "gone": ERRORED}
    (reason,) = (second.store.find("gone") or job("")).reasons
    assert reason == "Its files in state_dir are gone, or can't be read. Submit it again."
    assert not half.exists()
    second.close()


def limited(tmp_path: Path, **quotas: Any) -> StateDirectory:
    each = Quotas(each=replace(QuotasOfEach(), **quotas))
    settings = replace(SETTINGS, state_dir=str(tmp_path / "limited"), max_queued=9, quotas=each)
    return StateDirectory(settings, lambda path: None)


def test_a_tenant_has_so_many_trainings_queued(
    directory: StateDirectory, tmp_path: Path, llama: BaseModel
) -> None:
    made = limited(tmp_path, queued_trainings=1)
    made.accept(replace(job("a"), tenant="ada"), plan(llama))
    with pytest.raises(QuotaExceeded, match="1 of your trainings are queued or paused, and 1") as error:
        made.accept(replace(job("b"), tenant="ada"), plan(llama))
    assert error.value.retry_seconds == 60
    # What was accepted once is so again.
    assert made.accept(replace(job("a"), tenant="ada"), plan(llama)).id == "a"
    made.accept(replace(job("c"), tenant="bob"), plan(llama))
    made.close()


def test_a_tenant_has_so_much_of_the_disk(
    directory: StateDirectory, tmp_path: Path, llama: BaseModel
) -> None:
    made = limited(tmp_path, stored_mib=0.5)
    prompt = tmp_path / "prompt"
    prompt.mkdir()
    (prompt / "tensors").write_bytes(bytes(600_000))
    made.store.add(replace(job("a"), tenant="ada", path=str(prompt)))
    made.store.move("a", COMPLETED)
    with pytest.raises(QuotaExceeded, match=r"your prompts have 0.572 MiB, and 0.5 is allowed") as error:
        made.accept(replace(job("b"), tenant="ada"), plan(llama))
    assert error.value.retry_seconds is None
    made.accept(replace(job("c"), tenant="bob"), plan(llama))
    made.close()


def test_a_training_has_so_many_bytes(directory: StateDirectory, tmp_path: Path, llama: BaseModel) -> None:
    made = limited(tmp_path, training_mib=0.0001)
    with pytest.raises(QuotaExceeded, match="the records of this training have"):
        made.accept(job("a"), plan(llama))
    made.close()


def test_what_is_checked_is_what_is_accepted(
    directory: StateDirectory, tmp_path: Path, llama: BaseModel
) -> None:
    """CheckTraining reads no more than a quota allows, and nothing that the submission wouldn't."""
    made = limited(tmp_path, training_records=10)
    for ask in (lambda one: made.look_through(PROMPTS, one), lambda one: made.accept(job("a"), one)):
        with pytest.raises(QuotaExceeded, match=r"quotas\.each\.training_records"):
            ask(plan(llama, PAIRS))
    made.close()
    checked = directory.look_through(PROMPTS, plan(llama, [*PAIRS, PAIRS[0]]))
    accepted = directory.accept(job("one"), plan(llama, [*PAIRS, PAIRS[0]]))
    told = reasons(directory.store, accepted)
    assert checked.warnings
    assert told[1:] == list(checked.warnings)


def test_of_many_records_the_first_are_looked_through(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stand for the others, whose turn comes with the training's."""
    whole = preflight(plan(llama, PAIRS * 50))
    monkeypatch.setattr("caikit_pt.runtime.state_directory._MOST_LOOKED_THROUGH", 2 * len(PAIRS))
    part = directory.look_through(PROMPTS, plan(llama, PAIRS * 50))
    assert (part.records, part.updates, part.targets) == (whole.records, whole.updates, whole.targets)
    assert part.sources.median == whole.sources.median
    assert part.seconds == pytest.approx(whole.seconds, rel=0.1)
    assert part.device_memory == pytest.approx(whole.device_memory, rel=0.1)
    told = f"{2 * len(PAIRS)} of {part.records:,} records were looked through"
    assert part.warnings == (*whole.warnings, f"{told}; the others are when their turn comes")


@pytest.mark.parametrize("stage", ["records", "preflight", "trial"])
def test_a_client_that_leaves_ends_its_submission(
    directory: StateDirectory, llama: BaseModel, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Between its stages: what follows isn't begun, and there is no job."""
    here, read = [True], list[int]()

    def leave(*_: object) -> Any:
        here[0] = False
        return SimpleNamespace(warnings=())

    def records() -> Iterator[dict[str, str]]:
        for number in range(5000):
            read.append(number)
            here[0] &= stage != "records" or number < 1500
            yield {"input": f"a {number}", "output": f"b {number}"}

    monkeypatch.setattr("caikit_pt.turns._SECONDS_A_TURN", -1.0)
    if stage == "preflight":
        monkeypatch.setattr("caikit_pt.runtime.prompt_making.preflight", leave)
    monkeypatch.setattr(BaseModelPool, "check_training", leave if stage == "trial" else _too_late)

    def submit() -> None:
        anybody = Principal("", ())
        calls.begin(
            Call("id", "method", "host", lambda _: True, anybody, lambda _: None, is_active=lambda: here[0])
        )
        config: Any = {"num_virtual_tokens": 3}
        with pytest.raises((ClientLeft, CaikitRuntimeException)) as error:
            directory.accept(job("one"), PeftPromptTuning.plan("tiny-llama", records(), config))
        assert isinstance(error.value, ClientLeft) or isinstance(error.value.__cause__, ClientLeft)

    contextvars.copy_context().run(submit)
    assert len(read) == (1501 if stage == "records" else 5000)
    assert directory.store.find("one") is None


def _too_late(*_: object) -> None:
    raise AssertionError("nobody waits for it")
