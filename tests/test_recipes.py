"""The recipe of a source prompt and its targets, with the tiny T5 and a few of the project's own records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caikit_pt import settings
from examples.local_server import ROOT
from examples.recipes.__main__ import main
from examples.recipes.recipe import Recipe, Task
from tests.conftest import T5

RECIPE = ROOT / "examples" / "recipes" / "mpt_t5_base.json"
# The project's own data in the place of each data set: a text and one of two labels.
STAND_INS = ("ticket_sentiment", "ticket_urgency", "ticket_politeness", "film_subjectivity")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory in the format of the recipe: all six sources, and two of the four targets."""
    recipe, folder = Recipe.read(RECIPE), tmp_path / "data"
    for number, task in enumerate((*recipe.sources, *recipe.targets[:2])):
        texts = _texts(STAND_INS[number % len(STAND_INS)])
        _write(folder / task.name / "train.jsonl", [_row(task, *pair) for pair in texts[:8]])
        split = "validation" if task in recipe.targets else "test"
        _write(folder / task.name / f"{split}.jsonl", [_row(task, *pair) for pair in texts[8:12]])
    return folder


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where source prompts are published."""
    place, now = tmp_path / "sources", settings.current()
    place.mkdir()
    changed = replace(now, source_prompt_base=str(place), base_models_dir=str(ROOT / "examples/base_models"))
    monkeypatch.setattr(settings, "current", lambda: changed)
    return place


def _texts(name: str) -> list[tuple[str, int]]:
    lines = (ROOT / "examples" / "data" / name / "train.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines[:12]]
    labels = sorted({record["output"] for record in records})
    return [(record["input"], labels.index(record["output"]) % 2) for record in records]


def _row(task: Task, text: str, label: int) -> dict[str, Any]:
    """As the data set has it, with `text` in each of its fields."""
    row: dict[str, Any] = dict.fromkeys(task.fields, text)
    special: dict[str, Any] = {
        "label": label if task.names else ("neutral", "entails")[label],
        "answer": str(label + 1),
        "answers": [text.split()[0]],
        "entities": text.split()[:3],
    }
    row.update({name: value for name, value in special.items() if name in row})
    if row.pop("answers.text", None):
        row["answers"] = {"text": [text.split()[0]], "answer_start": [0]}
    return row


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _cook(data: Path, tmp_path: Path) -> int:
    quick = ["--num-epochs", "1", "--num-virtual-tokens", "4"]
    where = ["--data", str(data), "--state", str(tmp_path / "state")]
    return main([str(RECIPE), "--base-model", T5, "--source-name", "mpt", *where, *quick])


def test_a_source_is_trained_and_every_target_adapted_and_judged(
    data: Path, tmp_path: Path, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again trains nothing."""
    assert _cook(data, tmp_path) == 0
    told = capsys.readouterr().out
    assert "mnli: 8 records, 1 updates alone" in told
    assert "left out: paws/train{.jsonl" in told
    assert "source published as mpt/1" in told
    *_, boolq, scitail = told.strip().splitlines()
    assert boolq.startswith("| boolq | accuracy |")
    assert scitail.startswith("| scitail | accuracy |")
    manifest = json.loads((sources / "mpt" / "1" / "manifest.json").read_text("utf-8"))
    assert [task["name"] for task in manifest["tasks"]] == ["mnli", "qnli", "qqp", "sst2", "squad", "record"]
    assert _cook(data, tmp_path) == 0
    again = capsys.readouterr().out
    assert "update" not in again.replace("updates alone", "")
    assert again.strip().splitlines()[-2:] == [boolq, scitail]
    assert not (sources / "mpt" / "2").exists()


def test_what_is_missing_or_wrong_is_told_before_anything_is_trained(
    data: Path, tmp_path: Path, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [_row(Recipe.read(RECIPE).targets[0], "text", 7)]
    _write(data / "boolq" / "validation.jsonl", bad)
    assert _cook(data, tmp_path) == 2
    assert "record 1 has '7' as its output. Expected: 0, 1" in capsys.readouterr().err
    _write(data / "qqp" / "train.jsonl", [{"question1": "a", "label": 0}])
    assert _cook(data, tmp_path) == 2
    assert "record 1 has no question2. Expected: the fields question1, question2, label" in (
        capsys.readouterr().err
    )
    for name in ("mnli", "record"):
        (data / name / "train.jsonl").unlink()
    assert _cook(data, tmp_path) == 2
    told = capsys.readouterr().err
    assert "lacks these source tasks; nothing was trained" in told
    assert "mnli/train{.jsonl" in told
    assert "with the fields query, entities, passage, answers" in told
    assert not list(sources.iterdir())
