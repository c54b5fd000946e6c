"""Bad input is refused by the RPC it arrives with, before a job exists, in words that help.

Each row is something that caikit-nlp accepted, failed at late, or answered with a stack trace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from examples.grpc_client import Client
from tests.conftest import LLAMA, T5
from tests.test_service import MPT, QUICK, RECORDS

TRAIN: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (what is different from a good request, the field that is named, a word of what is allowed)
    "learning_rate inf": ({"learning_rate": "Infinity"}, "learning_rate", "up to 10"),
    "learning_rate nan": ({"learning_rate": "NaN"}, "learning_rate", "up to 10"),
    "learning_rate 0": ({"learning_rate": 0}, "learning_rate", "above 0"),
    "learning_rate 11": ({"learning_rate": 11}, "learning_rate", "up to 10"),
    "num_epochs 0": ({"num_epochs": 0}, "num_epochs", "from 1 to 10,000"),
    "num_epochs -1": ({"num_epochs": -1}, "num_epochs", "from 1"),
    "accumulate_steps 0": ({"accumulate_steps": 0}, "accumulate_steps", "from 1 to 1,024"),
    "max_source_length 0": ({"max_source_length": 0}, "max_source_length", "from 1"),
    "max_target_length 0": ({"max_target_length": 0}, "max_target_length", "from 1"),
    "max_source_length beyond the context": (
        {"base_model": LLAMA, "max_source_length": 5000},
        "max_source_length",
        "context",
    ),
    "tokens beyond the context": (
        {"base_model": LLAMA, "tuning_config": {"num_virtual_tokens": 1024}},
        "tuning_config.num_virtual_tokens",
        "context",
    ),
    "batch_size 0": ({"batch_size": 0}, "batch_size", "from 1 to 1,024"),
    "seed -1": ({"seed": -1}, "seed", "from 0"),
    "verbalizer with the label": ({"verbalizer": "{{input}} {{output}}"}, "verbalizer", "{{input}}"),
    "verbalizer without a placeholder": ({"verbalizer": "text"}, "verbalizer", "{{input}}"),
    "verbalizer that is empty": ({"verbalizer": " "}, "verbalizer", "{{input}}"),
    "verbalizer with an unknown placeholder": (
        {"verbalizer": "{{input}} {{mood}}"},
        "verbalizer",
        "{{input}}",
    ),
    "verbalizer with an empty placeholder": ({"verbalizer": "{{input}} {{}}"}, "verbalizer", "{{input}}"),
    "verbalizer with the label by another way": (
        {"verbalizer": "{{input}} {{output|upper}}"},
        "verbalizer",
        "{{input}}",
    ),
    "a source for PROMPT_TUNING": (
        {"tuning_config": {"prompt_tuning_init_method": "AVERAGE_SOURCE"}},
        "tuning_config.prompt_tuning_init_method",
        MPT,
    ),
    "absolute base model": ({"base_model": "/etc"}, "base_model", "stays inside"),
    "base model above its root": ({"base_model": "../base_models/tiny-t5"}, "base_model", "stays inside"),
    "unknown base model": ({"base_model": "no-such-model"}, "base_model", "tiny-t5"),
    "unknown base model of an organisation": ({"base_model": "no-one/nothing"}, "base_model", "tiny-t5"),
    "a classifier": ({"base_model": "classifier"}, "base_model", "BertForSequenceClassification"),
    "a recurrent model": ({"base_model": "recurrent"}, "base_model", "keys and values"),
    "a base model without weights": ({"base_model": "no-weights"}, "base_model", "safetensors"),
    "a base model without a tokenizer": ({"base_model": "no-tokenizer"}, "base_model", "tokenizer"),
    "a base model that is cut short": ({"base_model": "cut-short"}, "base_model", "whole"),
    "a base model that lacks a tensor": (
        {"base_model": "not-whole"},
        "base_model",
        "layer.2.DenseReluDense.wo",
    ),
    "a name beyond any file system": ({"base_model": "x" * 300}, "base_model", "bytes"),
    "no base model": ({"base_model": ""}, "base_model", "name"),
    "absolute training file": (
        {"train_stream": {"file": {"filename": "/etc/passwd"}}},
        "train_stream",
        "inside",
    ),
    "training file above its root": (
        {"train_stream": {"file": {"filename": "../../README.md"}}},
        "train_stream",
        "inside",
    ),
    "training file that isn't there": (
        {"train_stream": {"file": {"filename": "nothing.jsonl"}}},
        "train_stream",
        "file_source_base",
    ),
    "training files on S3": (
        {"train_stream": {"s3files": {"files": ["a"]}}},
        "train_stream",
        "S3 isn't supported. Copy the files into data_streams.file_source_base",
    ),
    "validation files on S3": (
        {"val_stream": {"s3files": {"files": ["a"]}}},
        "val_stream",
        "S3 isn't supported",
    ),
    "training directory above its root": (
        {"train_stream": {"directory": {"dirname": "..", "extension": "jsonl"}}},
        "train_stream",
        "inside",
    ),
    "outputs that are numbers": (
        {"train_stream": {"file": {"filename": "numbers.jsonl"}}},
        "train_stream",
        "text",
    ),
    "a validation file that breaks off": (
        {"val_stream": {"file": {"filename": "half.jsonl"}}},
        "val_stream",
        ".jsonl",
    ),
    "an absolute validation file": (
        {"val_stream": {"file": {"filename": "/etc/passwd"}}},
        "val_stream",
        "inside",
    ),
    "a file of another kind": (
        {"train_stream": {"file": {"filename": "text.txt"}}},
        "train_stream",
        ".jsonl",
    ),
    "a file of no kind": ({"train_stream": {"file": {"filename": "bare"}}}, "train_stream", ".jsonl"),
    "a directory of another kind": (
        {"train_stream": {"directory": {"dirname": "ticket_sentiment", "extension": "csv"}}},
        "train_stream",
        ".csv",
    ),
    "no training data": ({"train_stream": {"jsondata": {"data": []}}}, "train_stream", "at least one"),
    "no training stream": ({"train_stream": {}}, "train_stream", "at least one"),
    "no training stream at all": ({"train_stream": None}, "train_stream", "at least one"),
    "a directory as a file": (
        {"train_stream": {"file": {"filename": "ticket_sentiment"}}},
        "train_stream",
        ".jsonl",
    ),
    "a record without an output": (
        {"train_stream": {"jsondata": {"data": [{"input": "a", "output": "b"}, {"input": "c"}]}}},
        "train_stream",
        "not empty",
    ),
    "no validation data": ({"val_stream": {"jsondata": {"data": []}}}, "val_stream", "at least one"),
    "num_virtual_tokens -3": (
        {"tuning_config": {"num_virtual_tokens": -3}},
        "tuning_config.num_virtual_tokens",
        "from 1 to 4,096",
    ),
    "num_virtual_tokens 1e8": (
        {"tuning_config": {"num_virtual_tokens": 100_000_000}},
        "tuning_config.num_virtual_tokens",
        "from 1 to 4,096",
    ),
    "TEXT without text": (
        {"tuning_config": {"prompt_tuning_init_method": "TEXT"}},
        "tuning_config.prompt_tuning_init_text",
        "TEXT",
    ),
    "unknown init method": (
        {"tuning_config": {"prompt_tuning_init_method": "MAGIC"}},
        "tuning_config.prompt_tuning_init_method",
        "RANDOM",
    ),
    "unknown tuning type": ({"tuning_type": "LORA"}, "tuning_type", "PROMPT_TUNING"),
    "unknown tuning task": ({"tuning_task": "poetry"}, "tuning_task", "classification"),
    "a task rate without tasks": ({"task_learning_rate": 0.1}, "task_learning_rate", MPT),
    "unknown search": ({"search": "yes"}, "search", "off, auto"),
    "unknown reparameterization": ({"reparameterization": "mlp"}, "reparameterization", "none, residual"),
    "a network around a multitask prompt": (
        {"tuning_type": MPT, "reparameterization": "residual"},
        "reparameterization",
        "PROMPT_TUNING",
    ),
    "unknown optimizer": ({"optimizer": "sgd"}, "optimizer", "adamw, adafactor"),
    "unknown schedule": ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type", "linear, constant"),
    "warmup_ratio 1.5": ({"warmup_ratio": 1.5}, "warmup_ratio", "from 0 to 0.9"),
    "warmup_ratio nan": ({"warmup_ratio": "NaN"}, "warmup_ratio", "from 0 to 0.9"),
    "max_grad_norm -1": ({"max_grad_norm": -1}, "max_grad_norm", "from 0 to 1,000,000"),
    "max_grad_norm inf": ({"max_grad_norm": "Infinity"}, "max_grad_norm", "from 0"),
    "weight_decay 2": ({"weight_decay": 2}, "weight_decay", "from 0 to 1"),
    "validation_share 0.9": ({"validation_share": 0.9}, "validation_share", "from 0 to 0.5"),
    "validation_share -0.1": ({"validation_share": -0.1}, "validation_share", "from 0 to 0.5"),
    "validation_share beside a stream": (
        {"validation_share": 0.2, "val_stream": RECORDS},
        "validation_share",
        "val_stream",
    ),
    "validation_steps -1": ({"validation_steps": -1}, "validation_steps", "from 0"),
    "early_stopping_patience -1": ({"early_stopping_patience": -1}, "early_stopping_patience", "from 0"),
    "early stopping by nothing": (
        {"early_stopping_patience": 5, "validation_share": 0},
        "early_stopping_patience",
        "val_stream",
    ),
    "a search by nothing": ({"search": "auto", "validation_share": 0}, "search", "val_stream"),
    "a search with one record": (
        {"search": "auto", "train_stream": {"jsondata": {"data": [{"input": "a", "output": "b"}]}}},
        "search",
        "single record",
    ),
    "unknown dtype": ({"torch_dtype": "int8"}, "torch_dtype", "bfloat16"),
    "unknown device": ({"device": "tpu"}, "device", "cpu"),
    "a device that isn't there": ({"device": "cuda:99"}, "device", "cpu"),
    "ENCODER of a causal model": (
        {"base_model": LLAMA, "tuning_config": {"output_model_types": ["ENCODER"]}},
        "tuning_config.output_model_types",
        "DECODER",
    ),
    "unknown output model type": (
        {"tuning_config": {"output_model_types": ["MIDDLE"]}},
        "tuning_config.output_model_types",
        "DECODER",
    ),
    "an output model type twice": (
        {"tuning_config": {"output_model_types": ["ENCODER", "ENCODER"]}},
        "tuning_config.output_model_types",
        "once",
    ),
}

SOURCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": ({"prompt_tuning_init_source_model": "nothing"}, "source_model", "tiny-t5-good"),
    "above the root": ({"prompt_tuning_init_source_model": "../../etc/passwd"}, "source_model", "inside"),
    "absolute": ({"prompt_tuning_init_source_model": "/etc/passwd"}, "source_model", "inside"),
    "outside through a link": ({"prompt_tuning_init_source_model": "escape"}, "source_model", "inside"),
    "of another width": ({"prompt_tuning_init_source_model": "narrow"}, "source_model", "width"),
    "for another base model": ({"prompt_tuning_init_source_model": "other-base"}, "source_model", "sha256"),
    "with a name beyond any file system": (
        {"prompt_tuning_init_source_model": "x" * 300},
        "source_model",
        "bytes",
    ),
    "broken": ({"prompt_tuning_init_source_model": "broken"}, "source_model", "tensors"),
    "with other tokens": (
        {"prompt_tuning_init_source_model": "tiny-t5-good", "num_virtual_tokens": 7},
        "num_virtual_tokens",
        "6",
    ),
    "without such a task": (
        {
            "prompt_tuning_init_source_model": "tiny-t5-good",
            "prompt_tuning_init_method": "EXACT_SOURCE_TASK",
            "prompt_tuning_init_task": 2,
        },
        "prompt_tuning_init_task",
        "2 tasks",
    ),
}

NAMES = ("", "..", "../x", "/tmp/x", "a/b", ".hidden", "a\\b", "a b", "x" * 300, "a\n")

INFERENCE: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty text": ({"text": ""}, "text", "empty"),
    "truncate_input_tokens -1": ({"truncate_input_tokens": -1}, "truncate_input_tokens", "from 0"),
    "max_new_tokens 0": ({"max_new_tokens": 0}, "max_new_tokens", "from 1"),
    "max_new_tokens 1e9": ({"max_new_tokens": 1_000_000_000}, "max_new_tokens", "to 4,096"),
    "min above max": ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens", "max_new_tokens"),
    "unknown decoding method": ({"decoding_method": "BEAM"}, "decoding_method", "GREEDY, SAMPLING"),
    "top_k -1": ({"top_k": -1}, "top_k", "from 0"),
    "top_p 1.5": ({"top_p": 1.5}, "top_p", "from 0 to 1"),
    "typical_p nan": ({"typical_p": float("nan")}, "typical_p", "from 0 to 1"),
    "temperature -1": ({"temperature": -1.0}, "temperature", "from 0"),
    "temperature inf": ({"temperature": float("inf")}, "temperature", "from 0"),
    "repetition_penalty -1": ({"repetition_penalty": -1.0}, "repetition_penalty", "from 0"),
    "max_time 0": ({"max_time": 0.0}, "max_time", "above 0"),
    "an empty stop sequence": ({"stop_sequences": ["a", ""]}, "stop_sequences", "empty"),
    "65 stop sequences": ({"stop_sequences": list(map(str, range(65)))}, "stop_sequences", "up to 64"),
    "a long stop sequence": ({"stop_sequences": ["a" * 257]}, "stop_sequences", "256 characters"),
    "a stop sequence of megabytes": ({"stop_sequences": ["a" * 3_000_000]}, "stop_sequences", "256"),
    "megabytes of text": ({"text": "long " * 800_000}, "text", "characters"),
    "megabytes of one word": ({"text": "a" * 4_000_000, "truncate_input_tokens": 9}, "text", "characters"),
    "decay factor 0": (
        {"exponential_decay_length_penalty": {"start_index": 1, "decay_factor": 0.0}},
        "exponential_decay_length_penalty.decay_factor",
        "from 1",
    ),
    "text beyond the context": ({"text": "long " * 3000}, "text", "truncate_input_tokens"),
}


@pytest.fixture(scope="module")
def served(client: Client) -> str:
    """A prompt to ask."""
    client.train("refuses", {**QUICK, "base_model": LLAMA})
    return "refuses"


def assert_refused(error: grpc.RpcError, field: str, allowed: str) -> None:
    """The status is right, and the text has the field, the value and what is allowed."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert re.fullmatch(r"[\w.]+: .+ is not allowed\. Allowed: .+", str(error.details()))
    assert "/tmp" not in str(error.details()).partition("Allowed: ")[2]
    named, _, rest = str(error.details()).partition(": ")
    assert named.split(".")[-1].endswith(field.split(".")[-1])
    assert " is not allowed. Allowed: " in rest
    assert allowed in rest


@pytest.mark.parametrize("case", TRAIN)
def test_bad_train_requests(client: Client, models_dir: Path, case: str) -> None:
    changed, field, allowed = TRAIN[case]
    with pytest.raises(grpc.RpcError) as error:
        client.submit("bad", {**QUICK, "base_model": T5, **changed})
    assert_refused(error.value, field, allowed)
    assert not (models_dir / "bad").exists()


@pytest.mark.parametrize("case", SOURCES)
def test_bad_source_prompts(client: Client, case: str) -> None:
    config, field, allowed = SOURCES[case]
    config = {"prompt_tuning_init_method": "AVERAGE_SOURCE", **config}
    with pytest.raises(grpc.RpcError) as error:
        client.submit("bad", {**QUICK, "base_model": T5, "tuning_type": MPT, "tuning_config": config})
    assert_refused(error.value, field, allowed)


@pytest.mark.parametrize("name", NAMES)
def test_bad_model_names(client: Client, name: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.submit(name, {**QUICK, "base_model": T5})
    assert_refused(error.value, "model_name", "letters")


def test_an_output_path_on_s3(client: Client) -> None:
    request = client.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest(model_name="x")
    request.output_path.path = "bucket/model"
    with pytest.raises(grpc.RpcError) as error:
        client._training.TextGenerationTaskPeftPromptTuningTrain(request)
    assert_refused(error.value, "output_path", "unset")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", INFERENCE)
def test_bad_inference_requests(client: Client, served: str, case: str, streaming: bool) -> None:
    changed, field, allowed = INFERENCE[case]
    request = {"text": "The desk is awful", **changed}
    with pytest.raises(grpc.RpcError) as error:
        _ = list(client.stream(served, **request)) if streaming else client.predict(served, **request)
    assert_refused(error.value, field, allowed)


def test_megabytes_to_tokenize(client: Client, served: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.tokenize(served, "long " * 800_000)
    assert_refused(error.value, "text", "characters")


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        ("empty", grpc.StatusCode.DATA_LOSS),
        ("aliases", grpc.StatusCode.DATA_LOSS),
        ("tensors in a pipe", grpc.StatusCode.DATA_LOSS),
        ("config in a pipe", grpc.StatusCode.NOT_FOUND),
        ("pipe", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_damaged_prompts_hang_no_request(
    client: Client, served: str, models_dir: Path, damage: str, status: grpc.StatusCode
) -> None:
    """Aliases of aliases took half a minute, and a pipe a thread of the server for ever."""
    damaged = models_dir / f"damaged-{damage.replace(' ', '-')}"
    if damage == "pipe":
        os.mkfifo(damaged)
    else:
        shutil.copytree(models_dir / served, damaged)
    config = damaged / "config.yml"
    if damage == "empty":
        config.write_text("")
    if damage == "aliases":
        levels = [f"a{level}: &a{level} [{f'*a{level - 1},' * 9}]" for level in range(1, 12)]
        config.write_text("\n".join(["a0: &a0 [x]", *levels]))
    if damage.endswith("in a pipe"):
        file = config if damage.startswith("config") else next(damaged.glob("*coder.safetensors"))
        file.unlink()
        os.mkfifo(file)
    try:
        with pytest.raises(grpc.RpcError) as error:
            client.predict_within(20, damaged.name, "The desk is awful")
        assert error.value.code() is status, error.value.details()
    finally:
        if damaged.is_dir():
            shutil.rmtree(damaged)
        else:
            damaged.unlink()


def test_empty_text_to_tokenize(client: Client, served: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.tokenize(served, "")
    assert_refused(error.value, "text", "empty")


def test_a_text_of_blanks_is_answered(client: Client, served: str) -> None:
    """A record of blanks teaches nothing and is refused; asked, they are tokens like others."""
    assert client.predict(served, text="  \n ").generated_tokens > 0


def test_a_good_request_still_passes(client: Client) -> None:
    """The rows above differ from this request in one thing each."""
    assert client.train("good", {**QUICK, "base_model": T5}) == "COMPLETED"


def test_no_text_of_a_record_is_told(client: Client) -> None:
    secret = "the password is swordfish"
    records = {"jsondata": {"data": [{"input": secret, "output": " "}]}}
    with pytest.raises(grpc.RpcError) as error:
        client.submit("bad", {**QUICK, "base_model": T5, "train_stream": records})
    assert re.search(r"record 1\b", str(error.value.details()))
    assert secret not in json.dumps(error.value.details())
