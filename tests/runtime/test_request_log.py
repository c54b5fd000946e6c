"""A line a request: all that is asked of one afterwards, and not a word of its text."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from alog.alog import AlogJsonFormatter, AlogPrettyFormatter
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, TooManyRequests
from caikit_pt.runtime.request_log import logged, status_of
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.worker import Worker
from caikit_pt.status import caikit_errors
from tests.conftest import LLAMA
from tests.serving.test_engine import WORDS, request


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "caikit_pt.runtime.request_log"):
        yield caplog


def written(log: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The one line there is, by the formatter of `log.formatter: json`."""
    (record,) = [one for one in log.records if one.name == "caikit_pt.runtime.request_log"]
    line = AlogJsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_line_of_an_answer(log: pytest.LogCaptureFixture, llama: BaseModel) -> None:
    worker = Worker(llama, Limits())
    one = request(llama, 1, max_new_tokens=7, min_new_tokens=7)
    with logged("abc-1", "text_completion") as noted:
        noted.model = "helpful"
        worker.submit(one).result()
    line = written(log)
    assert 0 <= line["queue_ms"] <= line["first_token_ms"] <= line["total_ms"] + 0.1
    assert line["total_ms"] > 0
    wanted = {
        "operation": "text_completion",
        "request_id": "abc-1",
        "model": "helpful",
        "base_model": LLAMA,
        "input_tokens": len(one.row.ids),
        "output_tokens": 7,
        "status": "OK",
    }
    assert {name: line[name] for name in wanted} == wanted
    told = str(line)
    assert not any(word in told for word in WORDS if len(word) > 4)


def test_a_person_reads_a_line_too(log: pytest.LogCaptureFixture) -> None:
    with logged("abc-1", "tune") as line:
        line.model, line.training_id = "helpful", "t-1"
    text = AlogPrettyFormatter(12).format(log.records[-1])
    assert text.count("\n") <= 1
    assert "operation=tune request_id=abc-1 model=helpful training_id=t-1" in text
    assert "status=OK" in text
    assert "queue_ms" not in text


def test_a_refusal_has_its_status_and_none_of_its_text(log: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(CaikitRuntimeException),
        logged("abc-1", "text_completion"),
        caikit_errors(),
    ):
        raise InvalidParameter("text", "a secret", "something else")
    line = written(log)
    assert line["status"] == "INVALID_ARGUMENT"
    assert line["queue_ms"] is None
    assert "secret" not in str(line)


def test_a_stream_that_is_left_is_cancelled(log: pytest.LogCaptureFixture, llama: BaseModel) -> None:
    worker = Worker(llama, Limits())

    def stream() -> Iterator[object]:
        with logged("abc-1", "text_completion"):
            yield from worker.submit(request(llama, 1, max_new_tokens=300, min_new_tokens=300)).steps()

    answer = stream()
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    line = written(log)
    assert line["status"] == "CANCELLED"
    assert line["output_tokens"] >= 1
    assert line["base_model"] == LLAMA


def test_names_that_a_client_makes_up_stay_on_the_line(log: pytest.LogCaptureFixture) -> None:
    with logged("abc-1", "text_completion") as noted:
        noted.model = "x\n[ERROR] y" + "z" * 5000
    line = written(log)
    assert "\n" not in line["message"]
    assert line["model"].startswith("x?[ERROR]?y")
    assert len(line["model"]) == 200


def test_the_status_of_an_error() -> None:
    assert status_of(TooManyRequests("full")) == "RESOURCE_EXHAUSTED"
    assert status_of(CaikitRuntimeException(grpc.StatusCode.NOT_FOUND, "x")) == "NOT_FOUND"
    assert status_of(GeneratorExit()) == "CANCELLED"
    assert status_of(ValueError("x")) == "INTERNAL"
