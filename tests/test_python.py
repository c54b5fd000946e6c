"""The module as a data scientist uses it: in Python, without a server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import caikit
import grpc
import pytest
import torch
import yaml
from caikit.core.data_model import DataStream
from caikit.interfaces.nlp.data_model import ClassificationTrainRecord
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import GenerationTrainRecord, PeftPromptTuning, TuningConfig, load_base_model
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import check_request
from caikit_pt.tuning.plan import make_plan
from examples.local_server import ROOT
from tests.conftest import BASE_MODELS, SETTINGS

PAIRS = [(f"the {thing} is {mood}", mood) for thing in ("kettle", "lamp", "desk") for mood in ("good", "bad")]
GENERATION = [GenerationTrainRecord(input=text, output=mood) for text, mood in PAIRS]
CLASSIFICATION = [ClassificationTrainRecord(text=text, labels=[mood]) for text, mood in PAIRS]


def train(base: Any, records: Any = GENERATION, **parameters: Any) -> PeftPromptTuning:
    return PeftPromptTuning.train(
        base_model=base,
        train_stream=DataStream.from_iterable(records),
        tuning_config=TuningConfig(num_virtual_tokens=4),
        **{"num_epochs": 20, **parameters},
    )


def test_classification_records_train_as_generation_records_do(base: BaseModel) -> None:
    labelled = train(base.checkpoint.name, CLASSIFICATION)
    written = train(base.checkpoint.name, GENERATION)
    for part, tensor in written.tuned.prompt.tensors.items():
        assert torch.equal(labelled.tuned.prompt.tensors[part], tensor)
    assert labelled.run("the chair is bad").generated_tokens > 0


def test_a_model_in_any_directory_is_used_as_it_is(tmp_path: Path) -> None:
    """And trained, saved and loaded over the one copy in memory."""
    base = load_base_model(str(BASE_MODELS / "tiny-t5"))
    assert base is load_base_model(str(BASE_MODELS / "tiny-t5"))
    held = len(POOL)
    model = train(base)
    assert model.base is base
    assert repr(model) == "<PeftPromptTuning on 'tiny-t5', 4 virtual tokens, separator '', 0 labels>"
    model.save(str(tmp_path / "mine"))
    assert PeftPromptTuning.load(str(tmp_path / "mine"), base_model=base).base is base
    assert caikit.load(str(tmp_path / "mine")).base is base
    assert len(POOL) == held


def test_a_training_goes_on_from_a_prompt_in_memory_and_on_disk(llama: BaseModel, tmp_path: Path) -> None:
    """Over the base model that it has; as text only what is published counts."""
    first = train(llama, num_epochs=2, verbalizer="Say: {{input}}")
    first.save(str(tmp_path / "first"))

    def on(start: Any) -> PeftPromptTuning:
        return PeftPromptTuning.train(
            base_model="",
            train_stream=DataStream.from_iterable(GENERATION),
            tuning_config=TuningConfig(),
            num_epochs=1,
            prompt_tuning_init_prompt=start,
        )

    second, again = on(first), on(tmp_path / "first")
    assert second.base is llama
    assert second.tuned.verbalizer == again.tuned.verbalizer == "Say: {{input}}"
    assert torch.equal(second.tuned.prompt.tensors["DECODER"], again.tuned.prompt.tensors["DECODER"])
    assert again.tuned.tuning_parameters["prompt_tuning_init_prompt"] == "first"
    for wrong in (str(tmp_path / "first"), tmp_path / "none"):
        with pytest.raises(CaikitRuntimeException, match="prompt_tuning_init_prompt") as error:
            on(wrong)
        assert error.value.status_code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_absolute_path_is_no_name_in_python_either() -> None:
    with pytest.raises(CaikitRuntimeException) as error:
        train(str(BASE_MODELS / "tiny-t5"))
    assert error.value.status_code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error.value.__cause__, InvalidParameter)


def test_a_bar_for_a_person_and_lines_for_a_log(
    base: BaseModel, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(base)
    assert "% " not in capfd.readouterr().err
    assert any("to go" in line for line in caplog.messages)
    train(base, silence_progress_bars=False)
    assert "tuning" in capfd.readouterr().err


def test_many_epochs_are_warned_of(base: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    make_plan({"base_model": base.checkpoint.name, "num_epochs": 51}, GENERATION, None, SETTINGS)
    assert any("num_epochs is 51" in line for line in caplog.messages)


def test_records_that_are_cut_are_told_by_count_and_not_by_text(
    base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    records = [*GENERATION, GenerationTrainRecord(input="a secret " * 50, output="good")]
    train(base, records, max_source_length=20, num_epochs=1)
    assert any("1 of 7 records cut at max_source_length" in line for line in caplog.messages)
    assert not any("secret" in line for line in caplog.messages)


def test_a_prompt_is_evaluated(base: BaseModel, tmp_path: Path) -> None:
    """By answers as `run` gives them; records as a training takes them, and a file."""
    model = train(base)
    seen: list[Any] = []
    report = model.evaluate(
        CLASSIFICATION, train(base, num_epochs=1), wrong_answers=6, on_progress=seen.append
    )
    answers = [
        model.run(text, preserve_input_text=False, max_new_tokens=4).generated_text for text, _ in PAIRS
    ]
    right = [answer.strip() == mood for answer, (_, mood) in zip(answers, PAIRS, strict=True)]
    assert report["scores"]["tuned"]["exact_match"]["value"] == pytest.approx(sum(right) / 6)
    assert [one["record"] for one in report["wrong"]] == [n for n, ok in enumerate(right, 1) if not ok]
    assert set(report["scores"]) == {"tuned", "untuned", "against"}
    assert seen[-1].done == seen[-1].of == 36
    file = tmp_path / "test.csv"
    file.write_text("question,answer\n" + "".join(",".join(pair) + "\n" for pair in PAIRS))
    again = model.evaluate(file, input_field="question", output_field="answer")
    assert again["scores"]["tuned"] == report["scores"]["tuned"]
    with pytest.raises(CaikitRuntimeException, match="tuning_task: 'mood' is not allowed") as error:
        model.evaluate(GENERATION, tuning_task="mood")
    assert error.value.status_code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_evaluation_agrees_with_the_verdict_and_with_run(base: BaseModel) -> None:
    """With labels and a separator, on the records that the training was validated with; and in free text."""
    model = train(
        base,
        CLASSIFICATION,
        val_stream=DataStream.from_iterable(CLASSIFICATION),
        separator=" Label: ",
        num_epochs=3,
    )
    assert model.tuned.labels
    verdict = model.tuned.verdict["validation"]
    report = model.evaluate(CLASSIFICATION, wrong_answers=6)
    for who in ("tuned", "untuned"):
        assert report["scores"][who]["accuracy"] == pytest.approx(verdict[who]["accuracy"])
        assert report["scores"][who]["loss"] == pytest.approx(verdict[who]["loss"], rel=1e-4)
    assert {one["answered"].strip() for one in report["wrong"]} <= {"good", "bad"}
    free = model.evaluate(CLASSIFICATION, wrong_answers=6, labels_only=False)
    options = {
        "preserve_input_text": False,
        "labels_only": False,
        "max_new_tokens": free["models"]["tuned"]["max_new_tokens"],
    }
    answers = [model.run(text, **options).generated_text for text, _ in PAIRS]
    pairs = list(zip(answers, PAIRS, strict=True))
    assert [one["answered"] for one in free["wrong"]] == [
        answer for answer, (_, mood) in pairs if answer.strip() != mood
    ]


def test_both_sides_of_a_seq2seq_model(t5: BaseModel) -> None:
    model = PeftPromptTuning.train(
        base_model=t5.checkpoint.name,
        train_stream=DataStream.from_iterable(GENERATION),
        tuning_config=TuningConfig(num_virtual_tokens=4, output_model_types=["ENCODER", "DECODER"]),
        num_epochs=20,
    )
    encoder, decoder = (model.tuned.prompt.tensors[part] for part in ("ENCODER", "DECODER"))
    assert not (encoder == decoder).all()
    assert model.run("the chair is bad").generated_tokens > 0


def test_the_studios_limits_are_an_example_file() -> None:
    limits = yaml.safe_load((ROOT / "examples" / "studio_limits.yaml").read_text())["tuning_limits"]
    for name, value in {
        "batch_size": 17,
        "accumulate_steps": 129,
        "learning_rate": 0.6,
        "num_epochs": 51,
    }.items():
        with pytest.raises(InvalidParameter, match=name):
            check_request({"base_model": "m", name: value}, limits)


@pytest.mark.parametrize("path", ["/proc/x", "file/model"])
def test_a_model_that_can_be_written_nowhere_is_refused_in_words(
    llama: BaseModel, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a FileNotFoundError about a hidden directory with a name of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    model = train(llama, num_epochs=1)
    with pytest.raises(CaikitRuntimeException, match=f"model_path: '{path}' is not allowed. Allowed: a dir"):
        model.save(path)
