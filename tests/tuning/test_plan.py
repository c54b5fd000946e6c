"""A request becomes a plan: what is resolved, from where, and what is read of the records."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
from caikit.interfaces.nlp.data_model import ClassificationTrainRecord

from caikit_pt import GenerationTrainRecord
from caikit_pt.errors import InvalidParameter, InvalidRecord
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import TuningPlan, _nearly_equal, make_plan
from caikit_pt.tuning.records import Record, read_records
from caikit_pt.tuning.verbalizer import Verbalizer
from tests.conftest import BASE_MODELS, LLAMA, SETTINGS, T5

RECORDS = [GenerationTrainRecord(input=f"in {n}", output=f"out {n}") for n in range(3)]
LABELLED = [
    ClassificationTrainRecord(text="one", labels=["a"]),
    ClassificationTrainRecord(text="two", labels=["a", "b"]),
]


def plan(
    base_model: str = T5, settings: Settings = SETTINGS, records: Any = RECORDS, **request: Any
) -> TuningPlan:
    return make_plan({"base_model": base_model, **request}, records, None, settings)


def test_generation_records() -> None:
    assert plan().records.items[2] == Record("in 2", "out 2")
    assert plan().parameters.tuning_task == "generation"


def test_plain_dicts_are_records_too() -> None:
    assert plan(records=[{"input": "a", "output": "b"}]).records.items == (Record("a", "b"),)
    assert plan(records=[{"text": "a", "labels": ["b", "c"]}]).records.items == (Record("a", "b,c"),)


def test_classification_records() -> None:
    planned = plan(records=LABELLED)
    assert planned.records.items == (Record("one", "a"), Record("two", "a,b"))
    assert planned.parameters.tuning_task == "classification"


@pytest.mark.parametrize(
    ("records", "numbers"),
    [
        ([GenerationTrainRecord(input="a", output=None)], "record 1"),
        ([*RECORDS, GenerationTrainRecord(input=" \n", output="b")], "record 4"),
        ([ClassificationTrainRecord(text="a", labels=[])], "record 1"),
        ([GenerationTrainRecord(input=None, output=None)] * 23, "23 records"),
    ],
)
def test_records_without_an_input_or_an_output_are_told_by_number(records: Any, numbers: str) -> None:
    with pytest.raises(InvalidRecord, match=numbers):
        read_records(records, "train_stream")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (GenerationTrainRecord(input="a\0", output="b"), "record 1, input: “a\\x00” with a NUL"),
        (GenerationTrainRecord(input="a", output="\udc80"), "record 1, output: half a character, \\udc80"),
        ({"input": "a", "output": None}, "record 1, output: null"),
        ({"input": "a", "output": float("nan")}, "record 1, output: NaN"),
        ({"input": "a"}, "record 1: fields “input”"),
    ],
)
def test_records_in_python_are_looked_at_as_those_in_files(record: Any, told: str) -> None:
    with pytest.raises(InvalidRecord) as error:
        read_records([record], "train_stream")
    assert error.value.value == told


def test_names_are_asked_of_what_has_names() -> None:
    """Records of caikit's data model have fields of their own."""
    named = plan(records=[{"q": "a", "a": "b"}, RECORDS[0]], input_field="q", output_field="a")
    assert named.records.items == (Record("a", "b"), Record("in 0", "out 0"))


def test_a_stream_that_breaks_is_refused_without_its_text() -> None:
    def broken() -> Any:
        yield RECORDS[0]
        raise ValueError("secret text at line 2")

    with pytest.raises(InvalidRecord) as error:
        read_records(broken(), "val_stream")
    assert "ValueError" in str(error.value)
    assert "secret" not in str(error.value)


def test_where_prompts_go_by_default() -> None:
    assert plan(T5).parameters.output_model_types == ("ENCODER",)
    assert plan(LLAMA).parameters.output_model_types == ("DECODER",)
    both = plan(T5, output_model_types=["ENCODER", "DECODER"])
    assert both.parameters.output_model_types == ("ENCODER", "DECODER")


def test_a_preset_counts_for_its_task_and_loses_to_the_request() -> None:
    presets = ({"base_model": "TINY-*", "tasks": {"classification": {"batch_size": 3, "num_epochs": 4}}},)
    settings = Settings(base_models_dir=str(BASE_MODELS), tuning_presets=presets)
    chosen = plan(settings=settings, records=LABELLED, num_epochs=9).parameters
    assert (chosen.batch_size, chosen.origins["batch_size"]) == (3, "preset TINY-* / classification")
    assert (chosen.num_epochs, chosen.origins["num_epochs"]) == (9, "request")
    assert plan(settings=settings).parameters.batch_size == 8


def test_default_lengths_shrink_into_the_context() -> None:
    """1,024 positions less 900 virtual tokens, the separator and the end token leave 122."""
    parameters = plan(LLAMA, num_virtual_tokens=900).parameters
    assert parameters.max_source_length + parameters.max_target_length + 900 + 2 == 1024
    assert parameters.origins["max_source_length"] == "the context of tiny-llama"
    assert plan(LLAMA).parameters.max_source_length == 256
    named = plan(LLAMA, num_virtual_tokens=900, max_target_length=100).parameters
    assert (named.max_target_length, named.max_source_length) == (100, 22)


def test_named_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="max_source_length: 200"):
        plan(LLAMA, num_virtual_tokens=900, max_source_length=200)
    with pytest.raises(InvalidParameter, match="num_virtual_tokens: 1021"):
        plan(LLAMA, num_virtual_tokens=1021)
    assert plan(LLAMA, num_virtual_tokens=1020).parameters.max_source_length == 1


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        (
            {"num_virtual_tokens": 1021},
            "tuning_config.num_virtual_tokens",
            "at most 1,020, into the context of 1,024",
        ),
        ({"num_virtual_tokens": 900, "max_source_length": 200}, "max_source_length", "at most 121, into"),
        ({"max_source_length": 1500, "max_target_length": 9}, "max_source_length", "at most 913, into"),
        (
            {"num_virtual_tokens": 1500, "max_source_length": 5},
            "tuning_config.num_virtual_tokens",
            "at most 1,016, into",
        ),
    ],
)
def test_a_refusal_says_the_most_that_fits(given: dict[str, Any], field: str, told: str) -> None:
    """What it refused stood among what is allowed: 1500 is not allowed, allowed: 1500 virtual tokens ..."""
    with pytest.raises(InvalidParameter) as refusal:
        plan(LLAMA, **given)
    assert (refusal.value.field, refusal.value.allowed[: len(told)]) == (field, told)
    most = int(told.split()[2].rstrip(",").replace(",", ""))
    name = field.rpartition(".")[2]
    assert plan(LLAMA, **{**given, name: most})
    with pytest.raises(InvalidParameter):
        plan(LLAMA, **{**given, name: most + 1})


def test_models_without_an_end_of_context_take_any_length() -> None:
    assert plan(T5, max_source_length=5000, num_virtual_tokens=4096).parameters.max_source_length == 5000


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{input}}", "a {{input}} b"),
        ("Text: {{ input }}\nLabel:", "Text: a {{input}} b\nLabel:"),
        ("{{input}} {{input}}", "a {{input}} b a {{input}} b"),
        (r"\1 {{input}}", r"\1 a {{input}} b"),
    ],
)
def test_a_verbalizer_takes_the_text_as_it_is(template: str, rendered: str) -> None:
    """Also where the text looks like a template or a pattern itself."""
    assert Verbalizer(template).render("a {{input}} b") == rendered


def test_labels_that_may_be_slips_are_named_by_their_records() -> None:
    """Their texts are nothing for a log."""
    outputs = ["billing"] * 5 + ["shipping"] * 5 + ["biling", "Shipping", "returns", "shiping"]
    records = read_records([{"input": "a", "output": one} for one in outputs], "train_stream")
    (told,) = _nearly_equal(sorted(set(outputs)), records)
    assert told.startswith("labels that are nearly equal: those of records ")
    pairs = ("11 (1 such) and 1 (5)", "12 (1 such) and 6 (5)", "14 (1 such) and 6 (5)")
    assert all(pair in told for pair in pairs)
    assert "13" not in told
    assert not any(label in told for label in outputs)
    assert _nearly_equal(["billing", "shipping"], records) == []


@pytest.mark.parametrize(("labels", "length"), [(1000, 12), (200, 300)])
def test_labels_that_are_many_or_long_hold_no_request_up(labels: int, length: int) -> None:
    """Two hundred of 200 letters beside as many took ten seconds, within the RPC."""
    letters = Random(0)
    outputs = ["".join(letters.choices("abcdefgh", k=length)) for _ in range(labels)]
    repeated = [output for place, output in enumerate(outputs) for _ in range(1 + 2 * (place % 2))]
    records = read_records([{"input": "a", "output": one} for one in repeated], "train_stream")
    began = time.process_time()
    assert _nearly_equal(sorted(outputs), records) == []
    assert time.process_time() - began < 0.5
