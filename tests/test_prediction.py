"""A file of answers: resumed from any byte, in both forms, and never mixed with what isn't its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from caikit_pt.client import ServerError, TuningClient
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.prediction import Answers, Checked, Inputs, TrainedAgain, predict

NAMES = ["generated_text", "finish_reason", "producer_id", "tokens"]
RUN = {"model_name": "mood", "training_id": "1", "parameters": {}, "input_field": "", "input_sha256": "ab"}
ROWS: list[dict[str, Any]] = [
    {"id": 1, "input": "plain", "label": "x"},
    {"id": 2, "input": 'a "quoted" one,\nof two lines\r\n', "label": ""},
    {"id": 3, "input": "too long", "label": "y"},
    {"id": 4, "input": None, "label": "nothing to ask"},
    {"id": 5, "input": "ünicode \u2028 𝄞", "label": "z", "late": "only here"},
    {"id": 6, "input": " ", "label": "nor here"},
]


class Client:
    """Answers with what it was asked, and refuses what is too long."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.training_id = RUN["training_id"]

    def trained_by(self, model_name: str) -> Any:
        return self.training_id

    def predict(self, model_name: str, texts: Iterable[str], *_: object) -> Iterator[Mapping[str, Any]]:
        for text in texts:
            self.asked.append(text)
            if "long" in text:
                yield {"error": "INVALID_ARGUMENT: it is"}
            else:
                yield {
                    "generated_text": text,
                    "finish_reason": "EOS_TOKEN",
                    "producer_id": {},
                    "tokens": [{"text": text, "logprob": -0.5}],
                }


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Inputs(file)


def answers_at(out: Path, **run: Any) -> Answers:
    return Answers(out, {**RUN, **run}, Checked(6, "input", ["id", "label", "late"]), NAMES)


def run(inputs: Inputs, out: Path, on_answer: Callable[[], None] = lambda: None) -> tuple[Answers, list[str]]:
    """One run to its end, and what was asked in it."""
    client, answers = Client(), answers_at(out)

    def lost(_: CaikitPtError) -> None: ...

    try:
        answers.open()
        predict(cast(TuningClient, client), "mood", inputs, answers, 4, {}, lost, on_answer)
    finally:
        answers.close()
    return answers, client.asked


def lines(out: Path) -> list[dict[str, Any]]:
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
    with out.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, strict=True))


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_every_record_has_its_line(inputs: Inputs, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    answers, asked = run(inputs, out)
    assert (answers.done, answers.errors) == (6, 3)
    found = lines(out)
    assert [str(line["id"]) for line in found] == list("123456")
    assert [line["input"] for line in found] == [row["input"] or "" for row in ROWS]
    assert [line["label"] for line in found] == [row["label"] for row in ROWS]
    answered = [line["generated_text"] for line in found if not line.get("error")]
    assert answered == [text for text in asked if "long" not in text]
    assert [(line.get("error") or "")[:17] for line in found] == [
        "",
        "",
        "INVALID_ARGUMENT:",
        "input: null. Expe",
        "",
        "input: “ ”. Expec",
    ]
    assert [line.get("late") or "" for line in found] == ["", "", "", "", "only here", ""]
    assert not any("producer_id" in line for line in found)
    tokens = found[0]["tokens"]
    assert (json.loads(tokens) if ending == ".csv" else tokens) == [{"text": "plain", "logprob": -0.5}]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_it_goes_on_from_any_byte(inputs: Inputs, tmp_path: Path, ending: str) -> None:
    """As a kill leaves it: whole lines stay, a torn one goes, and nothing is asked twice."""
    out = tmp_path / f"out{ending}"
    _, asked = run(inputs, out)
    whole = out.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte in b'\n"']
    for size in sorted({*range(0, len(whole), 7), *ends, *(at + 1 for at in ends[:-1])}):
        out.write_bytes(whole[:size])
        kept = answers_at(out)
        kept.open()
        kept.close()
        assert whole.startswith(out.read_bytes())
        assert kept.done < 6
        assert kept.done or size < len(whole) / 2
        text = [row["input"] for row in ROWS[kept.done :] if row["input"] and row["input"].strip()]
        answers, again = run(inputs, out)
        assert out.read_bytes() == whole
        assert (answers.done, answers.errors, again) == (6, 3, text)
    assert run(inputs, out)[1] == []
    assert asked


def test_it_is_written_as_it_comes(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    seen: list[int] = []
    run(inputs, out, lambda: seen.append(len(lines(out))))
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_name": "other"}, "of another model"),
        ({"training_id": "2"}, "of another training of the model"),
        ({"parameters": {"max_new_tokens": 3}}, "with other parameters"),
        ({"input_sha256": "cd", "input_field": "text"}, "to another field, to other records"),
    ],
)
def test_answers_of_another_run_are_left_alone(
    inputs: Inputs, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    out = tmp_path / "out.jsonl"
    run(inputs, out)
    before = out.read_bytes()
    with pytest.raises(InvalidParameter, match=f"out.jsonl holds answers {told}"):
        answers_at(out, **changed)
    assert out.read_bytes() == before
    # Where none has come yet, there is nothing to mix.
    out.write_bytes(b"")
    answers_at(out, **changed)


@pytest.mark.parametrize(("after", "sure"), [(2, 2), (6, 6)])
def test_a_prompt_that_is_trained_again(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, sure: int
) -> None:
    """It ends at the next check, at the latest behind the last answer; the file can't be gone on with."""
    monkeypatch.setattr("caikit_pt.prediction._SECONDS_BETWEEN_CHECKS", 0.0)
    client, answers = Client(), answers_at(tmp_path / "out.jsonl")

    def on_answer() -> None:
        if answers.done == after:
            client.training_id = "2"

    with closing(answers):
        answers.open()
        with pytest.raises(TrainedAgain, match=r"trained again meanwhile \(2\)"):
            predict(cast(TuningClient, client), "mood", inputs, answers, 4, {}, lambda _: None, on_answer)
    assert answers.done == sure
    with pytest.raises(InvalidParameter, match=r"of another training .*; to begin anew, remove it"):
        answers_at(tmp_path / "out.jsonl", training_id="2")


def test_a_server_that_is_gone_is_asked_later(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose prompt it has is then known behind the last answer."""
    monkeypatch.setattr("caikit_pt.prediction._SECONDS_BETWEEN_CHECKS", 0.0)
    client, answers = Client(), answers_at(tmp_path / "out.jsonl")

    def gone(_: str) -> str:
        raise ServerError("UNAVAILABLE", "gone")

    monkeypatch.setattr(client, "trained_by", gone)
    with closing(answers):
        answers.open()
        with pytest.raises(ServerError):
            predict(cast(TuningClient, client), "mood", inputs, answers, 4, {}, lambda _: None, lambda: None)
    assert answers.done == len(ROWS)


def test_a_file_of_something_else_is_left_alone(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("a diary\n")
    with pytest.raises(InvalidParameter, match=r"there is no out\.jsonl\.run\.json"):
        answers_at(out)
    (tmp_path / "out.jsonl.run.json").write_text(json.dumps(RUN))
    with closing(answers_at(out)) as answers, pytest.raises(InvalidParameter, match="record 1 is none"):
        answers.open()
    assert out.read_text() == "a diary\n"


def test_a_table_without_the_columns_of_the_records(inputs: Inputs, tmp_path: Path) -> None:
    """As another release may have begun it."""
    out = tmp_path / "out.csv"
    run(inputs, out)
    out.write_text(out.read_text().replace(",late,", ",", 1))
    with closing(answers_at(out)) as answers, pytest.raises(InvalidParameter, match="columns late, too"):
        answers.open()


def test_two_runs_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with closing(answers_at(out)) as first, closing(answers_at(out)) as second:
        first.open()
        with pytest.raises(InvalidParameter, match="no other process writes"):
            second.open()


@pytest.mark.parametrize("out", ["out.txt", "out", "nowhere/out.jsonl", "folder.csv"])
def test_what_cannot_be_written(tmp_path: Path, out: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidParameter, match="--out"):
        answers_at(tmp_path / out)


@pytest.mark.parametrize(
    ("fields", "asked", "text"),
    [
        ({"text": "a", "label": "b"}, "", "a"),
        ({"Prompt ": "a", "completion": "b"}, "", "a"),
        ({"instruction": "a", "input": "b", "output": "c"}, "", "b"),
        ({"question": "a", "input": "b"}, "Question", "a"),
        ({"messages": [{"role": "user", "content": "a"}]}, "", "a"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "", "a"),
    ],
)
def test_the_field_that_is_asked(tmp_path: Path, fields: dict[str, Any], asked: str, text: str) -> None:
    file = tmp_path / "in.json"
    file.write_text(json.dumps([fields]))
    (one,) = Inputs(file, asked)
    assert (one.text, one.error) == (text, "")


@pytest.mark.parametrize(
    ("asked", "column", "others"),
    [("", "input", ["question", "a", "b"]), ("Question", "question", ["input", "a", "b"])],
)
def test_every_field_has_a_column(tmp_path: Path, asked: str, column: str, others: list[str]) -> None:
    """Those that later records have, too; the text is in the field that was asked for, by its own name."""
    file = tmp_path / "in.jsonl"
    rows = [{"question": "x", "input": "y", "a": 1}, {"question": "x", "b": 2, "input": "y"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Inputs(file, asked).checked == Checked(2, column, others)


@pytest.mark.parametrize("name", ["generated_text", "error", "tokens", "text"])
def test_a_field_that_an_answer_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match=f"--in: '{name}' is not allowed.*: rename it"):
        Answers(tmp_path / "out.jsonl", RUN, Checked(1, "text", ["id", name]), NAMES)
    Answers(tmp_path / "out.jsonl", RUN, Checked(1, "text", ["input", "producer_id"]), NAMES)


@pytest.mark.parametrize(
    ("content", "asked", "told"),
    [
        ("", "", "no records"),
        ('{"input": ""}\n{"input": 5}\n', "", "input: “”"),
        ('{"input": "a"}\n{"output": "b"}\n', "", "line 2, column 1: fields “output”"),
        ('{"input": "a"}\n', "question", "line 1, column 1: fields “input”"),
        ('{"text": "a", "prompt": "b"}\n', "", "fields “text”, “prompt”"),
        ('{"input": "a"}\n{"input": "b', "", "line 2, column"),
    ],
)
def test_a_file_that_nothing_can_be_asked_of(tmp_path: Path, content: str, asked: str, told: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidRecord) as error:
        _ = Inputs(file, asked).checked
    assert told in str(error.value)
