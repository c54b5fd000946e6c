"""The product over real gRPC, in a process of its own: tune, poll, predict, stream, tokenize."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from examples.grpc_client import Client
from examples.local_server import server
from tests.conftest import LLAMA, T5
from tests.whole import WHOLE

RECORDS = {
    "jsondata": {
        "data": [
            {"input": f"The {thing} is {'great' if good else 'awful'}", "output": "good" if good else "bad"}
            for thing in ("kettle", "toaster", "lamp", "desk")
            for good in (True, False)
        ]
    }
}
QUICK: dict[str, Any] = {
    "train_stream": RECORDS,
    "num_epochs": 2,
    "tuning_config": {"num_virtual_tokens": 4},
}
MPT = "MULTITASK_PROMPT_TUNING"
# Trainings, on both models in turn, that a cold server gets at once.
COLD = 6 if WHOLE else 2


@pytest.fixture(scope="module")
def trained(client: Client) -> dict[str, str]:
    """A prompt on each embedded model, by the model's name."""
    names = {LLAMA: "on-llama", T5: "on-t5"}
    for base_model, name in names.items():
        assert client.train(name, {**QUICK, "base_model": base_model}) == "COMPLETED"
    return names


@pytest.mark.parametrize("base_model", [LLAMA, T5])
@pytest.mark.parametrize("tuning_type", ["PROMPT_TUNING", MPT])
def test_every_combination_is_tuned_and_served(client: Client, base_model: str, tuning_type: str) -> None:
    name = f"{base_model}-{tuning_type.lower()}"
    states: list[str] = []
    client.train(name, {**QUICK, "base_model": base_model, "tuning_type": tuning_type}, states.append)
    assert states[-1] == "COMPLETED"
    result = client.predict(name, "The kettle is great")
    assert result.generated_tokens > 0
    assert result.input_token_count > 0


@pytest.mark.parametrize("method", ["AVERAGE_SOURCE", "AVERAGE_SOURCE_TASKS", "ONLY_SOURCE_SHARED"])
@pytest.mark.parametrize("base_model", [LLAMA, T5])
def test_source_prompts_are_found_by_name_and_by_default(
    client: Client, models_dir: Path, base_model: str, method: str
) -> None:
    """By name for one method and by the manifest's fingerprint for the others."""
    name = f"{base_model}-{method.lower().replace('_', '-')}"
    config = {"prompt_tuning_init_method": method}
    if method == "ONLY_SOURCE_SHARED":
        config["prompt_tuning_init_source_model"] = f"{base_model}-good"
    request = {**QUICK, "base_model": base_model, "tuning_type": MPT, "tuning_config": config}
    assert client.train(name, request) == "COMPLETED"
    assert "num_virtual_tokens: 6" in (models_dir / name / "config.yml").read_text()


def test_a_stream_joined_is_the_unary_answer(client: Client, trained: dict[str, str]) -> None:
    for name in trained.values():
        free = {"labels_only": False, "max_new_tokens": 12}
        options = {**free, "generated_tokens": True, "token_ranks": True}
        whole = client.predict(name, "The desk is awful", **options)
        parts = list(client.stream(name, "The desk is awful", **options))
        assert len(parts) == whole.generated_tokens
        assert "".join(part.generated_text for part in parts) == whole.generated_text
        assert [token.text for part in parts for token in part.tokens] == [t.text for t in whole.tokens]
        assert {token.rank for token in whole.tokens} == {1}
        assert parts[-1].details.finish_reason == whole.finish_reason
        assert parts[-1].details.input_token_count == whole.input_token_count


def test_the_text_stands_before_a_causal_answer_unless_not_wanted(
    client: Client, trained: dict[str, str]
) -> None:
    text = "The desk is awful"
    kept = client.predict(trained[LLAMA], text).generated_text
    bare = client.predict(trained[LLAMA], text, preserve_input_text=False).generated_text
    assert kept.startswith(text)
    assert kept[len(text) :].strip() == bare.strip()
    assert not client.predict(trained[T5], text).generated_text.startswith(text)


def test_tokenization_gives_offsets_into_the_text(client: Client, trained: dict[str, str]) -> None:
    text = "Grüße, the kettle is great 🙂"
    for name in trained.values():
        result = client.tokenize(name, text)
        assert result.token_count == len(result.results) > 0
        assert all(token.text == text[token.start : token.end] for token in result.results)
        assert result.results[-1].end == len(text)


def test_a_retrained_name_serves_the_new_prompt(client: Client, models_dir: Path) -> None:
    """caikit keeps what it has loaded: the second answer would be the first prompt's."""
    request = {**QUICK, "base_model": T5}
    first = {"jsondata": {"data": [{"input": f"number {n}", "output": "good"} for n in range(8)]}}
    second = {"jsondata": {"data": [{"input": f"number {n}", "output": "bad"} for n in range(8)]}}
    client.train("again", {**request, "train_stream": first, "num_epochs": 30})
    before = client.predict("again", "number 3").generated_text
    client.train("again", {**request, "train_stream": second, "num_epochs": 30})
    after = client.predict("again", "number 3").generated_text
    assert (before, after) == ("good", "bad")
    assert not list(models_dir.glob(".again*"))


@pytest.mark.parametrize("name", ["m", "models", "server"])
def test_a_name_that_occurs_in_the_root_is_a_name_like_any_other(
    client: Client, models_dir: Path, trained: dict[str, str], name: str
) -> None:
    """caikit leaves such a name out of the path: the root itself was replaced, with every model in it."""
    assert client.train(name, {**QUICK, "base_model": T5}) == "COMPLETED"
    assert (models_dir / name / "config.yml").is_file()
    assert client.predict(name, "The desk is awful").generated_tokens > 0
    assert {path.name for path in models_dir.iterdir()} >= {*trained.values(), name}


def test_warnings_stand_among_the_reasons(client: Client) -> None:
    lengths = {"num_epochs": 51, "max_source_length": 4}
    request = {**QUICK, **lengths, "base_model": T5, "tuning_task": "classification"}
    training_id = client.submit("warned", request)
    assert client.wait(training_id) == "COMPLETED"
    _, reasons = client.status(training_id)
    assert reasons[:3] == [
        "num_epochs is 51; more than 50 seldom helps",
        "8 records are few to learn from",
        "8 of 8 records cut at max_source_length",
    ]
    assert reasons[-1].endswith("Kept is the prompt after epoch 51, update 51.")


def test_a_source_that_is_named_and_not_used_is_told_of(client: Client) -> None:
    config = {"num_virtual_tokens": 4, "prompt_tuning_init_source_model": "tiny-t5-good"}
    training_id = client.submit("unused", {**QUICK, "base_model": T5, "tuning_config": config})
    client.wait(training_id)
    _, reasons = client.status(training_id)
    ignored = "prompt_tuning_init_source_model is ignored, because prompt_tuning_init_method is RANDOM"
    assert reasons[0] == ignored


def test_a_tuning_config_can_be_left_out(client: Client, models_dir: Path) -> None:
    request = {name: value for name, value in QUICK.items() if name != "tuning_config"}
    assert client.train("defaults", {**request, "base_model": T5}) == "COMPLETED"
    assert "num_virtual_tokens: 100" in (models_dir / "defaults" / "config.yml").read_text()


def test_requests_that_come_at_once_to_a_cold_server(tmp_path: Path) -> None:
    """transformers' lazy imports, and its loading of two models at once, fail when threads race."""
    with server(tmp_path) as port, ThreadPoolExecutor(8) as pool:
        cold = Client(port)

        def train(number: int) -> str:
            return cold.train(f"cold-{number}", {**QUICK, "base_model": (LLAMA, T5)[number % 2]})

        assert set(pool.map(train, range(COLD))) == {"COMPLETED"}
    with server(tmp_path) as port, ThreadPoolExecutor(8) as pool:
        cold = Client(port)

        def ask(number: int) -> int:
            return int(cold.predict(f"cold-{number % COLD}", "The desk is awful").generated_tokens)

        assert min(pool.map(ask, range(12))) > 0


def test_what_is_published_has_no_base_model_in_it(models_dir: Path, trained: dict[str, str]) -> None:
    for name, file in ((trained[LLAMA], "decoder.safetensors"), (trained[T5], "encoder.safetensors")):
        names = {path.name for path in (models_dir / name).iterdir()}
        assert names == {"config.yml", file, "training_logs.jsonl", "verdict.json", "initial.safetensors"}
        lines = (models_dir / name / "training_logs.jsonl").read_text().splitlines()
        losses = [json.loads(line) for line in lines]
        assert {entry["name"] for entry in losses} == {"loss"}
        assert set(losses[0]["data"]) == {"epoch", "step", "value", "timestamp"}
        assert [entry["data"]["step"] for entry in losses] == list(range(1, len(losses) + 1))


def test_files_under_the_root_are_training_data(client: Client) -> None:
    streams: list[dict[str, Any]] = [
        {"list_of_files": {"files": ["ticket_sentiment/test.jsonl", "tweet_complaint/test.jsonl"]}},
        {"directory": {"dirname": "./ticket_sentiment", "extension": "jsonl"}},
        {"file": {"filename": "ticket_sentiment/test.jsonl"}},
        {"directory": {"dirname": "ticket_sentiment", "extension": "jsonl"}},
    ]
    for stream in streams if WHOLE else streams[:2]:
        request = {**QUICK, "base_model": T5, "train_stream": stream, "num_epochs": 1}
        assert client.train("from-files", request) == "COMPLETED"


def test_a_validation_stream_gives_a_validation_loss(client: Client, models_dir: Path) -> None:
    client.train("validated", {**QUICK, "base_model": LLAMA, "val_stream": RECORDS})
    logs = (models_dir / "validated" / "training_logs.jsonl").read_text()
    assert logs.count('"validation_loss"') == QUICK["num_epochs"]


def test_all_that_a_training_can_be_told(client: Client, models_dir: Path) -> None:
    """Every parameter goes over the wire, zeros that mean something too, and the verdict comes back."""
    told = {
        "reparameterization": "residual",
        "optimizer": "adafactor",
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.25,
        "max_grad_norm": 1.5,
        "weight_decay": 0.5,
        "validation_steps": 2,
        "early_stopping_patience": 3,
        "validation_share": 0.0,
    }
    request = {**QUICK, "base_model": T5, "val_stream": RECORDS, "batch_size": 2, **told}
    training_id = client.submit("told", request)
    assert client.wait(training_id) == "COMPLETED"
    config = yaml.safe_load((models_dir / "told" / "config.yml").read_text())
    assert {name: config["tuning_parameters"][name] for name in told} == told
    assert all(config["tuning_parameters"]["origins"][name] == "request" for name in told)
    lines = (models_dir / "told" / "training_logs.jsonl").read_text().splitlines()
    logs = [json.loads(line) for line in lines]
    assert [log["data"]["step"] for log in logs if log["name"] == "validation_loss"] == [2, 4, 6, 8]
    verdict = json.loads((models_dir / "told" / "verdict.json").read_text())
    _, reasons = client.status(training_id)
    assert any(f"update {verdict['kept']['step']}." in reason for reason in reasons)
    assert any(reason.startswith("On 8 validation records: ") for reason in reasons)


def test_a_search_over_the_wire(client: Client, models_dir: Path) -> None:
    request = {**QUICK, "base_model": LLAMA, "search": "auto", "val_stream": RECORDS, "num_epochs": 4}
    assert client.train("searched", request) == "COMPLETED"
    found = yaml.safe_load((models_dir / "searched" / "config.yml").read_text())
    assert found["tuning_parameters"]["num_virtual_tokens"] == 4
    assert found["tuning_parameters"]["search"] == "auto"
    verdict = json.loads((models_dir / "searched" / "verdict.json").read_text())
    assert verdict["validation"]["tuned"]["loss"]["value"] > 0


def test_joined_trainings_over_the_wire(tmp_path: Path) -> None:
    """Off unless the settings say so. Jobs that come at once, and one of them is cancelled."""
    settings = {"JOIN_TRAININGS": "true", "SLOTS": "5"}
    with server(tmp_path, settings) as port, ThreadPoolExecutor(4) as pool:
        joined = Client(port)
        stopped = joined.submit("stopped", {**QUICK, "base_model": T5, "num_epochs": 10_000})

        def train(number: int) -> str:
            request = {**QUICK, "base_model": T5, "num_epochs": 20, "seed": number}
            return joined.train(f"joined-{number}", request)

        assert set(pool.map(train, range(4))) == {"COMPLETED"}
        joined.cancel(stopped)
        assert joined.wait(stopped) == "CANCELED"
        assert joined.train("after", {**QUICK, "base_model": T5}) == "COMPLETED"
        assert joined.predict("joined-0", "The desk is awful").generated_tokens > 0


def test_a_running_job_can_be_cancelled(client: Client, models_dir: Path) -> None:
    training_id = client.submit("cancelled", {**QUICK, "base_model": LLAMA, "num_epochs": 10_000})
    client.cancel(training_id)
    assert client.wait(training_id) == "CANCELED"
    assert not (models_dir / "cancelled").exists()


def test_an_unknown_model_and_an_unknown_job_are_not_found(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.predict("never-trained", "hello")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as error:
        client.status("no-such-job")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
