"""What a client refuses by itself, before it asks a server anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.client import Progress, ServerError, Training, TuningClient, request_of
from caikit_pt.client.connection import Connection
from caikit_pt.errors import InvalidParameter

RECORDS = [{"input": "a", "output": "b"}]
EITHER = "a pathlib.Path, or records"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"records": RECORDS, "file": "a.jsonl"}, "train_stream: 'a.jsonl' .* and not both"),
        (
            {"records": RECORDS, "validation_records": RECORDS, "validation_file": "a.jsonl"},
            "val_stream: 'a.jsonl' .* and not both",
        ),
        ({"records": "data/a.jsonl"}, f"train_stream: a value of type str is.*{EITHER}"),
        ({"records": RECORDS[0]}, f"train_stream: a value of type dict is.*{EITHER}"),
        ({"records": 5}, f"train_stream: a value of type int is.*{EITHER}"),
        ({"records": [*RECORDS, "a"]}, f"train_stream: record 2, a value of type str, is.*{EITHER}"),
        ({"records": [("a", "b")]}, f"train_stream: record 1, a value of type tuple, is.*{EITHER}"),
        ({"records": None}, "train_stream: no records"),
    ],
)
def test_records_that_are_none(request_: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        request_of("tiny-t5", **request_)


def test_records_that_are_some(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"input": "a", "output": "b"}\n')
    for given in (RECORDS, iter(RECORDS), file):
        assert request_of("tiny-t5", records=given)["train_stream"] == {"jsondata": {"data": RECORDS}}


def test_test_records_that_are_none() -> None:
    with TuningClient("localhost:1") as client:
        with pytest.raises(ServerError, match=r"test_stream: 'a.jsonl' .* and not both"):
            client.evaluate("mood", RECORDS, file="a.jsonl")
        with pytest.raises(ServerError, match=f"test_stream: a value of type str.*{EITHER}"):
            client.evaluate("mood", "a.jsonl")  # type: ignore[arg-type]


def test_a_text_is_no_list_of_texts() -> None:
    with (
        TuningClient("localhost:1") as client,
        pytest.raises(InvalidParameter, match=r"texts: .*a list of te"),
    ):
        client.predict("mood", "one string")


def training(id: str, progress: Progress | None = None) -> Training:
    return Training(id, "mood", "tiny-t5", "RUNNING", None, None, None, [], 0, progress, "")


def test_a_training_is_as_good_as_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused by its name."""
    asked: list[str] = []

    def answer(_: object, rpc: object, request: Any) -> Any:
        asked.append(request.training_id)
        raise ServerError("NOT_FOUND", "nothing here")

    monkeypatch.setattr(Connection, "answer", answer)
    monkeypatch.setattr(Connection, "stream", answer)
    with TuningClient("localhost:1") as client:
        calls: list[Callable[[Any], object]] = [client.wait, client.training, client.compare, client.cancel]
        calls.append(lambda one: next(client.watch(one)))
        for call in calls:
            for given in ("a", training("a")):
                with pytest.raises(ServerError):
                    call(given)
            for wrong in (["a"], None, 5):
                with pytest.raises(InvalidParameter, match="the id of a training, or a Training"):
                    call(wrong)
    assert asked == ["a"] * 10


def test_a_training_is_a_line() -> None:
    assert repr(training("t.1")) == "<Training 't.1' of 'mood', RUNNING>"
    at = Progress(5, 20, 1, 0.5, None, 0.3, 1.0, 1.0, 1.0, 1.0)
    assert repr(training("t.1", at)) == "<Training 't.1' of 'mood', RUNNING, update 5 of 20>"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"num_epoch": 3},
            "num_epoch: 3 is not allowed. Allowed: no parameter has this name; is it num_epochs?",
        ),
        ({"xyzzy": 3}, "no parameter has this name; those of docs/parameters.md"),
        ({"num_epochs": "many"}, "num_epochs: 'many' is not allowed. Allowed: a whole number from 1"),
        ({"learning_rate": [1]}, r"learning_rate: \[1\] is not allowed. Allowed: a number above 0"),
        ({"prompt_tuning_init_method": 10**30}, "prompt_tuning_init_method: .* Allowed: .*RANDOM"),
    ],
)
def test_what_is_no_parameter_is_refused_by_its_name(given: dict[str, Any], told: str) -> None:
    with TuningClient("localhost:1") as client, pytest.raises(ServerError, match=told) as error:
        client.tune("mood", base_model="tiny-t5", records=RECORDS, **given)
    assert error.value.status == "INVALID_ARGUMENT"
