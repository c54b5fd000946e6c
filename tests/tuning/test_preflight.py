"""What is told of a training before a weight is read is what the training then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.sides import text_of
from caikit_pt.errors import InvalidRecord
from caikit_pt.runtime.data_sources import ConfinedFile
from caikit_pt.tuning.preflight import Lengths, preflight
from caikit_pt.tuning.tuner import tune

from .training import PAIRS, curve, plan

LONG = {"input": "the kettle " * 40, "output": "good " * 30}


def test_the_text_side_without_weights_is_the_one_with_them(base: BaseModel) -> None:
    text = text_of(base.checkpoint)
    for piece in ("", "the kettle is good", "ünïcode \n 🙂"):
        assert text.source_ids(piece) == base.text.source_ids(piece)
        assert text.target_ids(piece) == base.text.target_ids(piece)


def test_updates_and_tokens_are_those_of_the_training(base: BaseModel) -> None:
    planned = plan(base, PAIRS[:12], num_epochs=3, accumulate_steps=2, validation_share=0.25)
    told = preflight(planned)
    assert (told.records, told.validation_records) == (9, 3)
    assert told.updates == len(curve(tune(planned, base)))
    assert told.updates == 3 * told.updates_per_epoch
    counts = sorted(len(base.text.source_ids(record.input)) for record in planned.records.items)
    assert (told.sources.median, told.sources.longest) == (counts[4], counts[-1])
    assert told.parameters == planned.parameters.to_dict()
    json.dumps(told.to_dict(), allow_nan=False)


def test_lengths_are_the_nearest_ranks() -> None:
    told = Lengths.of(list(range(100, 0, -1)), limit=90)
    assert told == Lengths(limit=90, median=50, p90=90, p99=99, longest=100, cut=10)
    assert Lengths.of([7], limit=7) == Lengths(limit=7, median=7, p90=7, p99=7, longest=7, cut=0)


def test_predictions_grow_with_the_work(base: BaseModel) -> None:
    once = preflight(plan(base, num_epochs=2))
    twice = preflight(plan(base, num_epochs=4))
    assert once.seconds > 0
    assert twice.seconds == pytest.approx(2 * once.seconds)
    searched = preflight(plan(base, PAIRS, num_epochs=2, search="auto"))
    assert searched.seconds > 2 * preflight(plan(base, PAIRS, num_epochs=2)).seconds
    (file,) = base.checkpoint.directory.glob("*.safetensors")
    assert once.device_memory > file.stat().st_size
    # However large its updates are, it can do with passes of one row; but not without its weights.
    assert file.stat().st_size < once.least_memory < once.device_memory
    assert preflight(plan(base, num_epochs=2, batch_size=1)).least_memory == once.least_memory
    larger = preflight(plan(base, PAIRS, batch_size=20))
    assert larger.device_memory > preflight(plan(base, PAIRS, batch_size=1)).device_memory


def _doubled() -> list[dict[str, str]]:
    return [*PAIRS[:10], PAIRS[3]]


def _torn() -> list[dict[str, str]]:
    return [*PAIRS[:10], {"input": PAIRS[0]["input"], "output": "bad"}]


def _misspelt() -> list[dict[str, str]]:
    return [*PAIRS[:10], {**PAIRS[10], "ouput": "x"}]


@pytest.mark.parametrize(
    ("records", "warning"),
    [
        (_doubled, "1 records are there before, word for word (record 11)"),
        (_torn, "2 records have inputs that occur with other outputs (record 1, 11)"),
        (_misspelt, "1 records of train_stream have a field 'ouput', which nothing reads (record 11)"),
        (lambda: [{**pair, "output": "good"} for pair in PAIRS], "all records have the same output"),
        (lambda: PAIRS[:3], "3 records are few to learn from"),
        (lambda: [*PAIRS, LONG], "1 of 21 records cut at max_source_length"),
        (lambda: [*PAIRS, LONG], "1 of 21 records cut at max_target_length"),
    ],
)
def test_what_is_unlikely_to_be_meant_is_a_warning(
    llama: BaseModel, records: Callable[[], list[dict[str, str]]], warning: str
) -> None:
    planned = plan(llama, records(), max_source_length=32, max_target_length=16)
    assert warning in preflight(planned).warnings


def test_records_that_are_trained_on_and_validated_with_are_told(llama: BaseModel) -> None:
    told = preflight(plan(llama, PAIRS, validation=[PAIRS[4], {"input": "new", "output": "good"}]))
    assert "1 records to validate with are trained on, too (record 1)" in told.warnings


def test_good_records_have_no_warning(base: BaseModel) -> None:
    assert preflight(plan(base, PAIRS, tuning_task="classification")).warnings == ()


def test_an_input_that_the_tokenizer_leaves_out_is_refused_by_number(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(base.checkpoint)
    real = text.source_ids
    monkeypatch.setattr(text, "source_ids", lambda given: real("" if "\u200b" in given else given))
    monkeypatch.setattr("caikit_pt.tuning.preflight.text_of", lambda checkpoint: text)
    with pytest.raises(InvalidRecord, match=r"2 records whose input has no token \(record 2, 4\)") as error:
        preflight(plan(base, [PAIRS[0], {"input": "\u200b", "output": "x"}] * 2))
    assert error.value.field == "train_stream"
    assert "kettle" not in str(error.value)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_misspelt_fields_in_a_file_are_told(
    llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    file = tmp_path / f"records.{ending}"
    rows = [{**pair, "ouput": "x"} for pair in PAIRS]
    if ending == "csv":
        lines = ["input,output,ouput", *(f"{row['input']},{row['output']},x" for row in rows)]
        file.write_text("\n".join(lines))
    elif ending == "json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(ConfinedFile, "_get_resolved_source_path", lambda name: str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    stream = ConfinedFile._create_data_stream_from_file(file.name, GenerationTrainRecord)
    found = preflight(plan(llama, list(stream))).warnings
    assert any("20 records of train_stream have a field 'ouput', which nothing reads" in one for one in found)


def test_a_missing_field_is_refused_with_the_fields_that_are_there(llama: BaseModel) -> None:
    with pytest.raises(InvalidRecord, match=r"fields “input”, “ouput”; 2 records can't be used"):
        plan(llama, [{"input": "a", "ouput": "b"}] * 2)
