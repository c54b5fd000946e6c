"""The form for a training: what is in it is what the server describes, and what is refused is told by it."""

from __future__ import annotations

import gzip
import json

import httpx2
import pytest

from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.web.studio import records
from tests.runtime.servers import wait_for
from tests.web.site import site
from tests.web.studio.html import Page
from tests.web.studio.standin import HOSTILE, TOKEN, StandIn

GOOD = "".join(json.dumps({"input": f"text {n}", "output": "good"}) + "\n" for n in range(12))
BAD = "input,output\na,b\n,c\nd,\ne,f\n"
ID = "11111111-2222-3333-4444-555555555555"
EMPTY = {"empty:separator": "yes"}
BASE = {"model_name": "mood", "base_model": "tiny-t5", "training_id": ID}


def test_fields(web: httpx2.Client) -> None:
    """Every parameter has a field with range, default and origin behind it; none is set."""
    page = Page(web.get("/new").text)
    for parameter in TUNING_PARAMETERS:
        fields = [told for _, told in page.elements if told.get("name") == parameter.name]
        if parameter.name == "silence_progress_bars":
            assert not fields
            continue
        assert fields, parameter.name
        assert not any(told.get("value") for told in fields if told.get("type") == "text")
    assert page.by_id("f-num_epochs")["placeholder"] == "20"
    assert page.by_id("f-num_epochs")["aria-describedby"] == "h-num_epochs e-num_epochs"
    assert "a whole number from 1 to 10,000" in page.text
    assert "studio, parameter document" in page.text
    options = [told.get("value") for told in page.all("option")]
    assert {"support/2", "auto", "mood", "other"} <= set(options)


def test_again_with_changes(web: httpx2.Client) -> None:
    """What an earlier training was asked for stands in the form, and nothing that was decided for it."""
    answer = web.get("/new?from=done")
    page = Page(answer.text)
    assert page.by_id("model_name")["value"] == "name-done"
    assert page.by_id("f-num_epochs")["value"] == "7"
    assert page.by_id("f-learning_rate")["value"] == ""
    assert page.by_id("f-separator")["value"] == "\n"


def test_train(web: httpx2.Client, standin: StandIn) -> None:
    """A form without a script queues a training, and leads to it."""
    answer = web.post(
        "/new",
        data={**BASE, "num_epochs": "3", "learning_rate": "1e-2", "verbalizer": "a\r\nb"} | EMPTY,
        files={"train_file": ("train.jsonl", GOOD)},
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"/trainings/{ID}")
    (request,) = standin.trained
    assert request.model_name == "mood"
    asked = request.parameters
    assert (asked.base_model, asked.num_epochs, asked.learning_rate) == ("tiny-t5", 3, 0.01)
    assert asked.HasField("separator")
    assert asked.separator == ""
    assert asked.verbalizer == "a\nb"
    assert not asked.HasField("batch_size")
    assert len(asked.train_stream.jsondata.data) == 12


@pytest.mark.parametrize("kind", ["text", "lies"])
def test_other_records(web: httpx2.Client, standin: StandIn, kind: str) -> None:
    """Pasted, or on the server; with records to validate with."""
    told = {"text": GOOD, "lies": "task/train.jsonl"}[kind]
    answer = web.post("/new", data={**BASE, f"train_{kind}": told, "validate_text": GOOD})
    assert answer.status_code == 303, answer.text
    asked = standin.trained[0].parameters
    assert len(asked.val_stream.jsondata.data) == 12
    assert asked.train_stream.file.filename == ("task/train.jsonl" if kind == "lies" else "")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_epochs", "99999", "num_epochs: 99999 is not allowed. Allowed: a whole number from 1 to 10,000"),
        ("num_epochs", "many", "num_epochs: 'many' is not allowed. Allowed: a whole number from 1 to 10,000"),
        ("num_epochs", "9" * 20, "Allowed: a whole number from 1 to 10,000"),
        ("learning_rate", HOSTILE, "Allowed: a number above 0 and up to 10"),
        (
            "learning_rate",
            "nan",
            "'nan' is not allowed. Allowed: a number above 0 and up to 10",
        ),
    ],
)
def test_refused(web: httpx2.Client, field: str, value: str, told: str) -> None:
    """Beside the field, in the server's words; what was typed is still there, and the records are kept."""
    answer = web.post(
        "/new",
        data={**BASE, field: value, "verbalizer": HOSTILE},
        files={"train_file": ("train.jsonl", GOOD)},
    )
    assert answer.status_code == 400
    page = Page(answer.text)
    page.check()
    assert told in page.text
    box = page.by_id(f"f-{field}")
    assert (box["value"], box["aria-invalid"]) == (value, "true")
    assert HOSTILE not in answer.text
    held = next(one["value"] for one in page.all("input") if one.get("name") == "train_held")
    again = web.post("/new", data={**BASE, "train_held": held})
    assert again.status_code == 303
    # Nobody else has them.
    other = {"authorization": f"Bearer {TOKEN}"}
    assert web.post("/new", data={**BASE, "train_held": held}, headers=other).status_code == 400


def test_what_was_typed_outlives_the_server(web: httpx2.Client, standin: StandIn) -> None:
    """And is sent once more with the same id, to the same training."""
    assert web.get("/new").status_code == 200
    standin.stop()
    typed = {**BASE, "verbalizer": "Say it: {{input}}"}
    answer = web.post("/new", data=typed, files={"train_file": ("train.jsonl", GOOD)})
    assert answer.status_code == 503
    page = Page(answer.text)
    page.check()
    assert "The server is away" in page.text
    assert typed["verbalizer"] in page.text
    held, id = (
        next(one["value"] for one in page.all("input") if one.get("name") == name)
        for name in ("train_held", "training_id")
    )
    assert id == ID
    standin.start(standin.port)
    wait_for(lambda: web.post("/new", data={**typed, "train_held": held}).status_code == 303)


def test_a_header_that_nobody_understands_is_told_once(web: httpx2.Client) -> None:
    rows = "".join(f"Frage {n};Antwort\n" for n in range(7))
    answer = web.post("/studio/records", files={"train_file": ("train.csv", f"Frage;Antwort\n{rows}")})
    first, rest = answer.json()["error"]["lines"]
    assert "Frage" in first
    assert rest == "… and 6 records more for the same reason"


def test_without_records(web: httpx2.Client) -> None:
    """Or with two kinds of them."""
    for data in ({}, {"train_text": GOOD, "train_lies": "task/train.jsonl"}):
        answer = web.post("/new", data={**BASE, **data})
        assert answer.status_code == 400
        assert "train_stream" in Page(answer.text).text


def test_only_check(web: httpx2.Client, standin: StandIn) -> None:
    """Without a script, too: nothing is queued."""
    answer = web.post("/new", data={**BASE, "train_text": GOOD, "check": "yes"})
    assert answer.status_code == 200
    page = Page(answer.text)
    page.check()
    assert "12 records are few to learn from" in page.text
    assert "updates 40" in page.text
    assert not standin.trained


def test_preflight(web: httpx2.Client) -> None:
    """As a script asks for it while somebody types."""
    told = web.post("/studio/check", data={"base_model": "tiny-t5", "train_text": GOOD}).json()
    assert told["warnings"] == ["12 records are few to learn from"]
    assert told["tables"][0]["rows"][2] == ["updates", "40"]
    answer = web.post("/studio/check", data={"num_epochs": "99999", "train_text": GOOD})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == "num_epochs"
    assert error["message"].startswith("num_epochs: 99999 is not allowed")


def test_file_line_by_line(web: httpx2.Client) -> None:
    """Each record that can't be used is told with its line and why; a good file is kept for the form."""
    answer = web.post("/studio/records", files={"train_file": ("bad.csv", BAD)})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["field"] == "train"
    assert [line[: len("bad.csv, line 3")] for line in error["lines"]] == [
        "bad.csv, line 3",
        "bad.csv, line 4",
    ]
    told = web.post("/studio/records", files={"train_file": ("train.jsonl", GOOD)}).json()
    assert (told["records"], told["doubts"]) == (12, [])
    assert web.post("/studio/check", data={"train_held": told["held"]}).json()["warnings"]
    page = Page(web.post("/new", data=BASE, files={"train_file": ("bad.csv", BAD)}).text)
    page.check()
    assert "bad.csv, line 4, column 2" in page.text


def test_files_that_are_none(web: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another ending, of broken lines, packed, packed badly, and of more than goes into a request."""
    monkeypatch.setattr(records, "_MOST_UNPACKED", 2**20)
    monkeypatch.setattr(records, "_MOST_CHARACTERS", 2**19)
    packed = gzip.compress(GOOD.encode())
    for name, content, told in (
        (f"{HOSTILE}.exe", b"x", "a file whose name ends in"),
        ("broken.jsonl", b'{"input": "a", "output": "b"}\n{"input": ', "line 2"),
        ("cut.jsonl.gz", packed[:-20], "gunzip"),
        ("plain.jsonl.gz", GOOD.encode(), "gunzip"),
        ("bomb.jsonl.gz", gzip.compress(b"\n" * 2**21), "1 MiB when it is unpacked"),
        ("large.jsonl", GOOD.encode() * 10_000, "524,288 characters"),
    ):
        answer = web.post("/studio/records", files={"train_file": (name, content)})
        assert answer.status_code == 400, name
        assert told in answer.json()["error"]["message"], name
    answer = web.post("/studio/records", files={"train_file": ("good.jsonl.gz", packed)})
    assert answer.json()["records"] == 12


def test_too_large(standin: StandIn) -> None:
    """A request has a limit, whether it says how long it is or not."""
    head = 'content-disposition: form-data; name="train_file"; filename="a.jsonl"'
    content = f"--x\r\n{head}\r\n\r\n".encode() + b"x" * 3 * 2**20
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with site(f"localhost:{standin.port}", max_file_mib=1) as url:
        for body in (content, iter([content])):
            answer = httpx2.post(f"{url}/studio/records", content=body, headers=kind)
            assert answer.status_code == 413
        answer = httpx2.post(f"{url}/new", content=b"--y", headers=kind)
        assert answer.status_code == 400
        Page(answer.text).check()


def test_held_records_make_room() -> None:
    """The oldest go first; what is asked for by another isn't there."""
    from caikit_pt.tuning.records import Record, Records

    held = records.Held(3000)
    for number in range(5):
        items = (Record("a" * 500, "b"),)
        held.keep(b"me", records.Brought(Records(items, False), held=str(number)))
    assert [held.find(b"me", str(number)) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert held.find(b"you", "4") is None
