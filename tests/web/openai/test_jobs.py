"""Files and fine-tuning jobs, by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from caikit_pt.client import TuningClient
from tests.conftest import LLAMA
from tests.runtime.servers import QUICK, RECORDS, wait_for
from tests.web.openai.place import ADA, BOB, Place, place
from tests.web.openai.test_answers import refusal

CONTENT = "".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": record["input"]},
                {"role": "assistant", "content": record["output"]},
            ]
        }
    )
    + "\n"
    for record in RECORDS
).encode()
SMALL: dict[str, Any] = {"n_epochs": 2, "num_virtual_tokens": 4, "batch_size": 4}
LONG: dict[str, Any] = {"n_epochs": 3000, "num_virtual_tokens": 4, "batch_size": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest.fixture(scope="module")
def client(here: Place) -> Iterator[openai.OpenAI]:
    with here.client() as made:
        yield made


@pytest.fixture(scope="module")
def file(client: openai.OpenAI) -> str:
    """One that can be trained on."""
    return client.files.create(file=("train.jsonl", CONTENT), purpose="fine-tune").id


@pytest.fixture(scope="module")
def done(client: openai.OpenAI, file: str) -> Any:
    """A job that has succeeded."""
    made = client.fine_tuning.jobs.create(
        model=LLAMA,
        training_file=file,
        validation_file=file,
        suffix="moods",
        seed=5,
        metadata={"team": "a", "run": "1"},
        hyperparameters=SMALL,  # type: ignore[arg-type]
        extra_headers={"Idempotency-Key": "moods-1"},
    )
    return ended(client, made.id)


def ended(client: openai.OpenAI, id: str) -> Any:
    wait_for(lambda: client.fine_tuning.jobs.retrieve(id).finished_at is not None, 120)
    return client.fine_tuning.jobs.retrieve(id)


def reaches(client: openai.OpenAI, id: str, *statuses: str) -> None:
    wait_for(lambda: client.fine_tuning.jobs.retrieve(id).status in statuses, 120)


# ---- files ----


def test_a_file_comes_back_as_it_was(client: openai.OpenAI) -> None:
    made = client.files.create(file=("../a/train.jsonl", CONTENT), purpose="fine-tune")
    assert made.to_dict() | {"created_at": 0, "id": ""} == {
        "id": "",
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": 0,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
    assert abs(made.created_at - time.time()) < 60
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == CONTENT
    assert client.files.wait_for_processing(made.id) == made
    assert client.files.delete(made.id).deleted
    assert refusal(lambda: client.files.retrieve(made.id)) == (404, "file_id", "file_not_found")


def test_files_are_listed_in_pages_and_each_callers_own(here: Place, client: openai.OpenAI) -> None:
    csv = b"text,label\na,b\n"
    made = [client.files.create(file=(f"{n}.csv", csv), purpose="fine-tune").id for n in range(3)]
    page = client.files.list(limit=1)
    assert page.has_more
    assert {one.id for one in page} >= set(made)  # all pages, one after the other
    oldest = [one.id for one in client.files.list(order="asc")]
    assert oldest == [one.id for one in client.files.list(order="desc")][::-1]
    assert list(client.files.list(purpose="batch")) == []
    assert refusal(lambda: client.files.list(limit=0)) == (400, "limit", "invalid_request")
    assert refusal(lambda: client.files.list(after="nobody"))[:2] == (404, "after")
    with here.client(BOB) as other:
        assert list(other.files.list()) == []
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            assert refusal(lambda ask=ask: ask(made[0])) == (404, "file_id", "file_not_found")  # type: ignore[misc]
    for id in made:
        client.files.delete(id)


@pytest.mark.parametrize(
    ("name", "content", "purpose", "param", "told"),
    [
        ("a.jsonl", b'{"input": "a", "output": "b"}\n{"input": "c"', "fine-tune", "file", "a.jsonl, line 2"),
        ("a.jsonl", b'{"input": "a", "output": ""}\n', "fine-tune", "file", "a.jsonl, line 1, column 26"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}',
            "fine-tune",
            "file",
            "line 1",
        ),
        ("a.txt", b"a", "fine-tune", "file", "ends in"),
        ("a.jsonl.gz", b"a", "fine-tune", "file", "ends in"),
        ("a.jsonl", b"", "fine-tune", "file", "no records"),
        ("a.jsonl", b'{"input": "a", "output": "b"}\n' * 40_000, "fine-tune", "file", "MiB"),
        ("a.jsonl", CONTENT, "evals", "purpose", "fine-tune"),
        ("a.jsonl", CONTENT, "user_data", "purpose", "fine-tune"),
    ],
)
def test_bad_files_are_refused(
    here: Place, client: openai.OpenAI, name: str, content: bytes, purpose: Any, param: str, told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as error:
        client.files.create(file=(name, content), purpose=purpose)
    assert error.value.param == param
    assert str(here.files) not in str(error.value)


def test_bodies_that_are_no_forms_are_refused(here: Place) -> None:
    headers = {"authorization": f"Bearer {ADA}"}
    address = f"{here.address}/v1/files"
    broken = {"content-type": "multipart/form-data"}
    for options in (
        {"json": {"file": "a", "purpose": "fine-tune"}},
        {"data": b"nothing of the kind", "headers": {**headers, **broken}},
        {"data": {"file": "a text", "purpose": "fine-tune"}},
        {"files": [("file", ("a.jsonl", b"a")), ("file", ("b.jsonl", b"b"))]},
    ):
        answer = requests.post(address, timeout=60, **{"headers": headers, **options})  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    whole: dict[str, Any] = {"files": {"file": ("a.jsonl", CONTENT)}, "headers": headers, "timeout": 60}
    for data, param in (
        ({}, "purpose"),
        ({"purpose": "fine-tune", "expires_after[anchor]": "created_at"}, "expires_after[anchor]"),
        ({"purpose": "fine-tune", "another": "a"}, "another"),
    ):
        answer = requests.post(address, data=data, **whole)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    huge = requests.post(address, data=b"a" * 3_000_000, headers=headers, timeout=60)
    assert huge.status_code == 413


# ---- jobs ----


def test_a_job_tunes_a_prompt_that_answers_by_its_name(client: openai.OpenAI, file: str, done: Any) -> None:
    assert (done.id, done.object, done.status) == ("moods-1", "fine_tuning.job", "succeeded")
    assert (done.model, done.seed, done.training_file, done.validation_file) == (LLAMA, 5, file, file)
    assert done.metadata == {"team": "a", "run": "1"}
    assert (done.error, done.result_files, done.organization_id) == (None, [], "ada")
    assert done.fine_tuned_model.startswith(f"{LLAMA}-moods-")
    assert done.created_at <= done.finished_at <= time.time() + 1
    assert (done.hyperparameters.n_epochs, done.hyperparameters.batch_size) == (2, 4)
    assert done.hyperparameters.learning_rate_multiplier == pytest.approx(1)
    assert done.method.type == "supervised"
    told = done.to_dict()
    assert told["user_provided_suffix"] == "moods"
    assert any("messages" in warning for warning in told["warnings"])
    assert done.fine_tuned_model in [model.id for model in client.models.list()]
    turn: Any = [{"role": "user", "content": "The lamp is great"}]
    answer = client.chat.completions.create(model=done.fine_tuned_model, messages=turn)
    assert answer.choices[0].message.content in ("good", "bad")


def test_a_key_makes_one_job_of_a_request_that_comes_twice(
    client: openai.OpenAI, file: str, done: Any
) -> None:
    def again(**changed: Any) -> Any:
        asked: dict[str, Any] = {"hyperparameters": SMALL, "suffix": "moods", "seed": 5, **changed}
        return client.fine_tuning.jobs.create(
            model=LLAMA,
            training_file=file,
            validation_file=file,
            extra_headers={"Idempotency-Key": "moods-1"},
            **asked,
        )

    same = again(metadata={"other": "notes"})
    assert (same.id, same.status, same.metadata) == (done.id, "succeeded", done.metadata)
    refused = refusal(lambda: again(seed=6))
    assert refused == (400, "Idempotency-Key", "invalid_parameter")


def test_events_come_newest_first_in_pages_and_as_a_stream(
    here: Place, client: openai.OpenAI, done: Any
) -> None:
    events = list(client.fine_tuning.jobs.list_events(done.id, limit=3))
    numbers = [int(event.id.rpartition("-")[2]) for event in events]
    assert numbers == list(range(len(events), 0, -1))
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    metrics = [event for event in events if event.type == "metrics"]
    assert any("train_loss" in (event.data or {}) for event in metrics)  # type: ignore[operator]
    assert any("valid_loss" in (event.data or {}) for event in metrics)  # type: ignore[operator]
    assert any(event.level == "warn" and "few to learn from" in event.message for event in events)
    assert any("published as" in event.message for event in events)

    def streamed(**asked: Any) -> list[dict[str, Any]]:
        address = f"{here.address}/v1/fine_tuning/jobs/{done.id}/events"
        answer = requests.get(address, timeout=60, **asked)
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    headers = {"authorization": f"Bearer {ADA}"}
    told = streamed(params={"stream": "true"}, headers=headers)
    assert [one["id"] for one in told] == [event.id for event in reversed(events)]
    # As a browser comes again.
    later = streamed(params={"stream": "true"}, headers={**headers, "last-event-id": told[3]["id"]})
    assert later == told[4:]
    bad = refusal(lambda: client.fine_tuning.jobs.list_events(done.id, after="ftevent-x-1"))
    assert bad[:2] == (404, "after")


def test_the_best_checkpoint_is_the_published_one(client: openai.OpenAI, done: Any) -> None:
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(done.id)
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert checkpoint.fine_tuning_job_id == done.id
    assert checkpoint.step_number > 0
    assert checkpoint.metrics.valid_loss is not None
    assert checkpoint.metrics.step == checkpoint.step_number


def test_a_job_goes_on_from_a_tuned_prompt(client: openai.OpenAI, file: str, done: Any) -> None:
    made = client.fine_tuning.jobs.create(
        model=done.fine_tuned_model,
        training_file=file,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        hyperparameters={"batch_size": "auto", "learning_rate_multiplier": 0.5},
        extra_body={"fine_tuned_model": "ada-moods"},
    )
    assert made.id.startswith("ftjob-")
    job = ended(client, made.id)
    assert (job.model, job.fine_tuned_model) == (LLAMA, "ada-moods")
    assert job.hyperparameters.n_epochs == 1
    assert job.hyperparameters.learning_rate_multiplier == pytest.approx(0.5)


def test_a_job_is_paused_resumed_and_cancelled(client: openai.OpenAI, file: str) -> None:
    jobs: Any = client.fine_tuning.jobs
    made = jobs.create(model=LLAMA, training_file=file, hyperparameters=LONG)
    assert made.status in ("queued", "running")
    assert (made.fine_tuned_model, made.finished_at) == (None, None)
    reaches(client, made.id, "running")
    wait_for(lambda: jobs.retrieve(made.id).estimated_finish is not None, 60)
    assert (jobs.retrieve(made.id).estimated_finish or 0) >= time.time() - 5
    # All that there is, and not all that there will be.
    before = time.monotonic()
    assert jobs.list_events(made.id, limit=5).data
    assert time.monotonic() - before < 30
    assert list(jobs.checkpoints.list(made.id)) == []
    assert jobs.pause(made.id).status == "paused"
    assert jobs.retrieve(made.id).status == "paused"
    assert jobs.resume(made.id).status in ("queued", "running")
    assert jobs.cancel(made.id).status == "cancelled"
    assert jobs.cancel(made.id).status == "cancelled"
    gone = jobs.retrieve(made.id)
    assert (gone.status, gone.fine_tuned_model, gone.estimated_finish) == ("cancelled", None, None)


def test_whoever_stops_listening_isnt_waited_for(here: Place, client: openai.OpenAI, file: str) -> None:
    made = client.fine_tuning.jobs.create(model=LLAMA, training_file=file, hyperparameters=LONG)  # type: ignore[arg-type]
    address = f"{here.address}/v1/fine_tuning/jobs/{made.id}/events?stream=true"
    with requests.get(address, headers={"authorization": f"Bearer {ADA}"}, stream=True, timeout=60) as answer:
        first = next(answer.iter_lines())
    assert first.startswith(b"id: ftevent-")
    assert client.fine_tuning.jobs.cancel(made.id).status == "cancelled"


def test_jobs_are_listed_with_those_submitted_elsewhere(
    here: Place, client: openai.OpenAI, file: str, done: Any
) -> None:
    with TuningClient(f"localhost:{here.server.port}", token=ADA) as own:
        id = own.tune("from-elsewhere", base_model=LLAMA, records=RECORDS, **QUICK)
        own.wait(id)
    found = list(client.fine_tuning.jobs.list(limit=1))  # all pages
    ids = [job.id for job in found]
    assert ids[0] == id
    assert done.id in ids
    assert len(set(ids)) == len(ids)
    elsewhere = found[0]
    assert (elsewhere.fine_tuned_model, elsewhere.training_file) == ("from-elsewhere", "")
    assert elsewhere.hyperparameters.n_epochs == QUICK["num_epochs"]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [done.id]
    assert list(client.fine_tuning.jobs.list(metadata={"team": "b"})) == []
    assert refusal(lambda: client.fine_tuning.jobs.list(after="nobody"))[:2] == (404, "after")
    assert refusal(lambda: client.fine_tuning.jobs.list(limit=1001)) == (400, "limit", "invalid_request")


def test_what_one_noted_of_a_job_others_dont_see(here: Place, done: Any) -> None:
    with here.client(BOB) as other:
        job = other.fine_tuning.jobs.retrieve(done.id)
        # No policy is set: all see all trainings, and notes are their writers' alone.
        assert (job.training_file, job.metadata) == ("", None)
        refused = refusal(
            lambda: other.fine_tuning.jobs.create(model=LLAMA, training_file=done.training_file)
        )
        assert refused == (404, "training_file", "file_not_found")


def test_a_job_that_isnt_there(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    for ask in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        assert refusal(lambda ask=ask: ask("ftjob-nobody"))[0] == 404  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"model": "../etc"}, "model"),
        ({"model": None}, "model"),
        ({"training_file": None}, "training_file"),
        ({"training_file": "file-" + "0" * 24}, "training_file"),
        ({"training_file": "../../etc/passwd"}, "training_file"),
        ({"validation_file": "file-x"}, "validation_file"),
        ({"suffix": "a b"}, "suffix"),
        ({"suffix": "a" * 65}, "suffix"),
        ({"suffix": "a", "fine_tuned_model": "b"}, "fine_tuned_model"),
        ({"fine_tuned_model": "../b"}, "fine_tuned_model"),
        ({"seed": -1}, "seed"),
        ({"seed": "a"}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "a"}}]}, "integrations"),
        ({"metadata": {"a": 5}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
        ({"method": "supervised"}, "method"),
        ({"hyperparameters": 5}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 5000}}, "hyperparameters.batch_size"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 1e9}},
            "hyperparameters.learning_rate_multiplier",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": "big"}},
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": {"num_virtual_tokens": 0.5}}, "hyperparameters.num_virtual_tokens"),
        ({"hyperparameters": {"search": "maybe"}}, "hyperparameters.search"),
        (
            {"hyperparameters": {"prompt_tuning_init_method": "X"}},
            "hyperparameters.prompt_tuning_init_method",
        ),
        ({"hyperparameters": {"base_model": "a"}}, "hyperparameters.base_model"),
        ({"hyperparameters": {"nothing": 1}}, "hyperparameters.nothing"),
        ({"hyperparameters": {"n_epochs": 2, "num_epochs": 2}}, "hyperparameters.num_epochs"),
        (
            {
                "hyperparameters": {"n_epochs": 2},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
            },
            "hyperparameters.n_epochs",
        ),
        ({"another": 1}, "another"),
    ],
)
def test_bad_jobs_are_refused_by_name(here: Place, file: str, fields: dict[str, Any], param: str) -> None:
    answer = requests.post(
        f"{here.address}/v1/fine_tuning/jobs",
        json={"model": LLAMA, "training_file": file, **fields},
        headers={"authorization": f"Bearer {ADA}"},
        timeout=60,
    )
    error = answer.json()["error"]
    assert answer.status_code in (400, 404), error
    assert error["param"] == param, error


def test_a_bad_key_is_refused(here: Place, client: openai.OpenAI, file: str) -> None:
    refused = refusal(
        lambda: client.fine_tuning.jobs.create(
            model=LLAMA, training_file=file, extra_headers={"Idempotency-Key": "../../x"}
        )
    )
    assert refused == (400, "Idempotency-Key", "invalid_parameter")
    assert not list(Path(here.files).rglob("x*"))


def test_the_client_that_doesnt_wait_gets_the_same(here: Place, done: Any) -> None:
    async def ask() -> list[str]:
        async with here.later() as client:
            return [job.id async for job in client.fine_tuning.jobs.list(limit=2)]

    assert done.id in asyncio.run(ask())
