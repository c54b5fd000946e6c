"""The trainer in this process: what it accepts and forgets, and where jobs are put. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.base_model.pool import BaseModelPool
from caikit_pt.errors import InvalidParameter, InvalidRecord, StateUnavailable, TooManyJobs
from caikit_pt.module import PeftPromptTuning
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import CANCELED, ERRORED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.supervisor import Allowance, Supervisor
from caikit_pt.runtime.trainer import _Office, reasons
from tests.conftest import SETTINGS
from tests.tuning.training import PAIRS, plan


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Office]:
    """One whose jobs stay queued."""
    monkeypatch.setattr(Supervisor, "start", lambda self: None)
    made = _Office(replace(SETTINGS, state_dir=str(tmp_path / "state"), max_queued=3, retention_days=0))
    yield made
    made._owner.close()


def job(id: str, digest: str = "d", **parameters: Any) -> Job:
    known = {"base_model": "b", "torch_dtype": "float32", "device": "cpu", "origins": {}, **parameters}
    return Job(id=id, model_name=id, path=f"/models/{id}", digest=digest, parameters=known, submitted=1.0)


def test_a_submission_is_on_disk_and_warned_of(office: _Office, llama: BaseModel) -> None:
    accepted = office.accept(job("one"), plan(llama, [*PAIRS, PAIRS[0]]))
    assert (accepted.state, accepted.number) == (QUEUED, 1)
    assert office.supervisor.folder("one").plan().records.items[0].input == PAIRS[0]["input"]
    told = reasons(office.store, accepted)
    assert told[0] == "0 queued trainings are before it."
    assert "1 records are there before, word for word (record 21)" in told


def test_an_id_is_one_training(office: _Office, llama: BaseModel) -> None:
    planned = plan(llama)
    first = office.accept(job("one"), planned)
    assert office.accept(job("one"), planned) == first
    with pytest.raises(InvalidParameter, match="training_id: 'one'"):
        office.accept(job("one", digest="another"), planned)
    assert office.store.count(QUEUED) == 1


def test_no_more_than_max_queued(office: _Office, llama: BaseModel) -> None:
    for id in "abc":
        office.accept(job(id), plan(llama))
    with pytest.raises(TooManyJobs, match="max_queued"):
        office.accept(job("d"), plan(llama))
    assert not office.supervisor.folder("d").directory.exists()
    office.supervisor.cancel(office.store.find("a") or job("a"))
    assert office.accept(job("d"), plan(llama)).state == QUEUED


def test_what_is_refused_leaves_nothing(
    office: _Office, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StateUnavailable("the database is full")

    monkeypatch.setattr(office.store, "add", full)
    with pytest.raises(StateUnavailable):
        office.accept(job("one"), plan(llama))
    assert not office.supervisor.folder("one").directory.exists()
    monkeypatch.setattr("caikit_pt.runtime.trainer.preflight", _refusing)
    with pytest.raises(InvalidRecord):
        office.accept(job("two"), plan(llama))
    assert not office.supervisor.folder("two").directory.exists()


@pytest.mark.parametrize("records", [10, 10_001])
def test_a_base_model_that_cannot_be_trained_makes_no_job(
    office: _Office, llama: BaseModel, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """However many records there are; CheckTraining says the same."""

    def fail(*_: object) -> None:
        raise InvalidParameter("base_model", "tiny-llama", "others")

    planned = plan(llama, [{"input": f"a {number}", "output": "b"} for number in range(records)])
    monkeypatch.setattr(BaseModelPool, "check_training", fail)
    with pytest.raises(InvalidParameter, match="base_model"):
        office.accept(job("one"), planned)
    assert not office.supervisor.folder("one").directory.exists()
    with pytest.raises(CaikitRuntimeException, match="base_model"):
        PeftPromptTuning.preflight("tiny-llama", planned.records.items[:3], {"num_virtual_tokens": 3})


def _refusing(_: object) -> None:
    raise InvalidRecord("train_stream", "1 records", "others")


def test_what_has_ended_is_kept_until_retention_days_are_over(
    office: _Office, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.accept(job("old"), plan(llama))
    office.supervisor.cancel(job("old"))
    office.accept(job("running"), plan(llama))
    monkeypatch.setattr("caikit_pt.runtime.trainer.time.time", lambda: 4e9)
    office.accept(job("later"), plan(llama))
    found = office.store.find("old")
    assert found is not None
    assert found.state == CANCELED
    office._settings = replace(office._settings, retention_days=30)
    office.accept(job("last"), plan(llama))
    assert office.store.find("old") is None
    assert not office.supervisor.folder("old").directory.exists()
    assert office.store.find("running") is not None


def test_what_an_earlier_server_has_left_is_taken_over(
    tmp_path: Path, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "start", lambda self: None)
    settings = replace(SETTINGS, state_dir=str(tmp_path / "state"))
    first = _Office(settings)
    for id in ("queued", "running", "gone"):
        first.accept(job(id), plan(llama))
    first.store.move("running", RUNNING)
    first.supervisor.folder("gone").remove()
    half = first.supervisor.folder("half").directory
    half.mkdir()
    (half / "records.jsonl").write_text("")
    first._owner.close()
    second = _Office(settings)
    states = {one.id: one.state for one in second.store.search()}
    assert states == {"queued": QUEUED, "running": QUEUED, "gone": ERRORED}
    (reason,) = (second.store.find("gone") or job("")).reasons
    assert reason == "Its files in state_dir are gone, or can't be read. Submit it again."
    assert not half.exists()
    second._owner.close()


# ---- where jobs are put ----


def supervisor(tmp_path: Path, **allowed: Any) -> Supervisor:
    store = JobStore(tmp_path)
    return Supervisor(store, tmp_path / "jobs", Allowance(**allowed), lambda path: None)


def test_each_job_sees_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,7")
    placing = supervisor(tmp_path, slots=3)
    cuda = [job(id, device="cuda") for id in "abcd"]
    seen = [placing._place(one) for one in cuda[:3]]
    assert seen == [("cuda:0", {"CUDA_VISIBLE_DEVICES": number}) for number in ("4", "6", "7")]
    placing._leave(cuda[1], lambda: None)
    assert placing._place(cuda[3]) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "6"})


def test_a_device_that_the_request_names_is_left_as_it_is(tmp_path: Path) -> None:
    placing = supervisor(tmp_path, slots=3)
    named = {"device": "request"}
    assert placing._place(job("a", device="cuda:1", origins=named)) == ("cuda:1", {})
    assert placing._place(job("b", device="cpu")) == ("cpu", {})
    assert placing._place(job("c", device="cuda")) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "0"})
    assert supervisor(tmp_path, join_trainings=True)._place(job("d", device="cuda")) == ("cuda", {})


def test_deaths_are_counted_until_a_snapshot_is_newer(tmp_path: Path) -> None:
    dying = supervisor(tmp_path, max_attempts=2)
    store = dying._store
    one = store.add(job("a"))
    for reason in ("SIGSEGV", "SIGBUS"):
        store.move("a", RUNNING)
        dying._died(one, reason)
        store.forget_deaths("a")
        assert (store.find("a") or one).state == QUEUED
    for reason in ("no memory", "exit code 3"):
        store.move("a", RUNNING)
        dying._died(one, reason)
    found = store.find("a") or one
    assert (found.state, list(found.reasons)) == (ERRORED, ["SIGSEGV", "SIGBUS", "no memory", "exit code 3"])
    assert [event.data["text"] for event in store.events(one, kinds=[kinds.DEATH])] == list(found.reasons)


def test_a_slot_is_free_again_however_the_end_of_its_job_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later jobs would wait for ever."""
    monkeypatch.setattr("caikit_pt.runtime.supervisor._SECONDS_BETWEEN_TRIES", 0.01)
    failing = supervisor(tmp_path)
    store = failing._store
    store.add(job("a"))
    store.move("a", RUNNING)
    failing._running["a"] = None
    move, locked = store.move, iter([True, True, False])

    def locked_for_a_while(*told: Any) -> bool:
        if next(locked):
            raise StateUnavailable("the database is locked")
        return move(*told)

    monkeypatch.setattr(store, "move", locked_for_a_while)

    def fail() -> None:
        raise ValueError("nobody has foreseen it")

    failing._leave(job("a"), fail)
    assert failing._running == {}
    found = store.find("a") or job("a")
    assert found.state == ERRORED
    assert "nobody has foreseen it" in found.reasons[0]
