"""caikit-pt against a real server: exit codes, lines in a pipe, a bar on a terminal, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.commands.moment import moment
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.initial import Predecessor
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from examples.local_server import ROOT, free_port
from tests.conftest import LLAMA, SETTINGS, T5
from tests.perturbation import SEED
from tests.runtime.servers import QUICK, RECORDS, Server, wait_for

QUICKLY = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
ENDLESS = [*QUICKLY, "--num-epochs=10000"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("commands"), CHECKPOINT_SECONDS=0.5)
    made.start().close()
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    return f"--server=localhost:{server.port}"


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("records") / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, RECORDS)))
    return f"--train={file}"


@pytest.fixture(scope="module")
def tuned(server: Server) -> str:
    """The id of a training that is complete, of `mood`."""
    with TuningClient(f"localhost:{server.port}") as client:
        id = client.tune(
            "mood", base_model=LLAMA, records=RECORDS, **{**QUICK, "num_epochs": 30, "seed": SEED}
        )
        assert client.wait(id).state == "COMPLETED"
    return id


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_tune_in_a_pipe(address: str, train: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "piped", f"--base-model={T5}", train, *QUICKLY, address]) == 0
    out, told = capfd.readouterr()
    assert out == "COMPLETED\n"
    assert told.startswith("training ")
    assert "update 2 of 2, epoch 2, loss " in told
    assert "published as piped" in told
    assert "8 records are few to learn from" in told
    assert "\x1b" not in told
    assert "\r" not in told


def test_tune_and_watch_as_json(
    server: Server, address: str, train: str, capfd: pytest.CaptureFixture[str]
) -> None:
    request = ["tune", "lines", f"--base-model={T5}", train, *QUICKLY, address, "--json"]
    assert main([*request, "--detach", "--id=lines.1"]) == 0
    assert objects(capfd.readouterr().out) == [{"training_id": "lines.1"}]
    assert main(["watch", "lines.1", address, "--json"]) == 0
    watched = objects(capfd.readouterr().out)
    assert [event["number"] for event in watched] == list(range(1, len(watched) + 1))
    assert watched[-1]["state"] == "COMPLETED"
    # In the directory of models, wherever that is.
    assert watched[-2]["data"]["path"] == "lines"
    assert main(["watch", "lines.1", address, "--json", f"--from-event={len(watched) - 1}"]) == 0
    assert objects(capfd.readouterr().out) == watched[-1:]


def test_what_a_training_has_to_come_to(
    server: Server, address: str, train: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A prompt that is worth nothing was COMPLETED, with exit code 0."""
    wrong = tmp_path / "wrong.jsonl"
    other = {"good": "bad", "bad": "good"}
    upside_down = [{**record, "output": other[record["output"]]} for record in RECORDS * 3]
    wrong.write_text("\n".join(map(json.dumps, upside_down)))
    request = ["tune", "required", f"--base-model={LLAMA}", train, *QUICKLY, "--num-epochs=30", address]
    command = [*request, "--require-better", f"--seed={SEED}"]
    assert main([*command, f"--validation={wrong}"]) == 5
    out, told = capfd.readouterr()
    assert out == "COMPLETED\n"
    (first,) = [line for line in told.splitlines() if line.startswith("Worse than ")]
    assert "accuracy" in first
    assert "by 24 validation records" in first
    assert told.endswith("--require-better: the prompt is published, and worse\n")
    assert main([*command, "--id=required.1"]) == 5
    assert capfd.readouterr().err.endswith("--require-better: the prompt is published, and unknown\n")
    assert main(["watch", "required.1", address]) == 0
    assert main(["watch", "required.1", address, "--require-better"]) == 5
    right = tmp_path / "right.jsonl"
    right.write_text("\n".join(map(json.dumps, RECORDS * 10)))
    assert main([*command, f"--validation={right}", "--id=required.2"]) == 0
    told = capfd.readouterr().err
    with TuningClient(f"localhost:{server.port}") as client:
        training = client.training("required.2")
    assert training.outcome == training.verdict["outcome"]["found"] == "better"
    assert training.outcome_text in told.splitlines()
    assert training.outcome_text == next(one for one in training.reasons if one.startswith("Better than "))
    with pytest.raises(SystemExit):
        main([*command, "--detach"])


def test_ask(tuned: str, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    request = ["generate", "mood", "The lamp is awful", "--max-new-tokens=3", address]
    assert main(request) == 0
    assert capfd.readouterr().out.startswith("bad")
    assert main([*request, "--json"]) == 0
    (answer,) = objects(capfd.readouterr().out)
    assert answer["generated_text"].startswith("bad")
    assert answer["finish_reason"] in ("EOS_TOKEN", "MAX_TOKENS")
    assert main([*request, "--json", "--generated-tokens=true", "--token-logprobs=true"]) == 0
    (answer,) = objects(capfd.readouterr().out)
    assert len(answer["tokens"]) == answer["generated_tokens"]
    assert all(token["logprob"] < 0 for token in answer["tokens"])


def test_ask_with_a_text_from_stdin(tuned: str, address: str) -> None:
    asked = run("generate", "mood", "-", "--max-new-tokens=3", address, input="The lamp is awful")
    assert asked.stdout.startswith("bad")
    assert (asked.returncode, asked.stderr) == (0, "")


def asked_of(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"--in={file}"


def test_predict(tuned: str, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In order, with what the record had; one that is refused ends nothing, and is counted."""
    out = tmp_path / "out.jsonl"
    rows: list[dict[str, Any]] = [{"id": number, **record} for number, record in enumerate(RECORDS)]
    rows[3]["input"] = "long " * 3000
    given = asked_of(tmp_path / "in.jsonl", rows)
    request = ["predict", "mood", given, f"--out={out}", "--max-new-tokens=3", address]
    request += ["--label-probabilities=true"]
    assert main([*request, "--in-flight=3"]) == 1
    printed, told = capfd.readouterr()
    assert printed == f"{out}\n"
    assert re.search(r"^8 of 8 answers, [\d.e+]+/s, about 0 s to go$", told, re.MULTILINE)
    assert "1 of 8 records have no answer" in told
    found = objects(out.read_text())
    assert [one["id"] for one in found] == list(range(8))
    assert found[3]["error"].startswith("INVALID_ARGUMENT: text: ")
    with TuningClient(address.removeprefix("--server=")) as client:
        alone = [client.generate("mood", row["input"], max_new_tokens=3) for row in rows[:3]]
        together = list(client.predict("mood", (row["input"] for row in rows[:3]), max_new_tokens=3))
    assert [one["generated_text"] for one in found[:3]] == alone
    assert [one["generated_text"] for one in together] == alone
    for one in (*found[:3], *found[4:]):
        assert {label["label"] for label in one["label_probabilities"]} == {"good", "bad"}
    assert all("error" not in one and one["finish_reason"] for one in (*found[:3], *found[4:]))
    before = out.read_bytes()
    assert main([*request, "--json"]) == 1
    assert objects(capfd.readouterr().out) == [{"answers": 7, "errors": 1, "out": str(out)}]
    assert out.read_bytes() == before


def test_a_prediction_that_is_killed_goes_on(tuned: str, address: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    rows = [{"number": str(number), "text": f"the {number}. lamp\nis awful"} for number in range(300)]
    given = asked_of(tmp_path / "in.jsonl", rows)
    request = ["predict", "mood", given, f"--out={out}", "--max-new-tokens=1", address]
    command = [sys.executable, "-m", "caikit_pt.cli", *request, "--in-flight=1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        wait_for(lambda: out.exists() and out.stat().st_size > 500)
        process.kill()
    kept = out.read_bytes()
    assert kept.count(b"EOS_TOKEN") + kept.count(b"MAX_TOKENS") < 300
    assert main(request) == 0
    assert out.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    with out.open(newline="", encoding="utf-8") as table:
        found = list(csv.DictReader(table, strict=True))
    assert [(one["number"], one["input"]) for one in found] == [(row["number"], row["text"]) for row in rows]
    assert all(one["finish_reason"] for one in found)


@pytest.mark.parametrize(
    ("changed", "code", "told"),
    [
        ({"model": "never"}, 1, "NOT_FOUND: "),
        ({"more": "--max-new-tokens=0"}, 1, "INVALID_ARGUMENT: max_new_tokens: 0"),
        ({"more": "--input-field=question"}, 2, "in.jsonl, line 1, column 1: fields “input”, “output”"),
        ({"rows": []}, 2, "in.jsonl: no records. Expected: at least one record"),
        ({"out": "in.jsonl"}, 2, "in.jsonl is the file of records"),
        ({"out": "out.txt"}, 2, "is not allowed. Allowed: a file whose name ends in .jsonl or .csv"),
        ({"out": "there.jsonl"}, 2, "there is no there.jsonl.run.json"),
        ({"in": "nowhere.jsonl"}, 2, "nowhere.jsonl: a file that can't be read (No such file"),
    ],
)
def test_a_prediction_that_cannot_be(
    tuned: str,
    address: str,
    tmp_path: Path,
    changed: dict[str, Any],
    code: int,
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It leaves every file as it was."""
    asked_of(tmp_path / "in.jsonl", changed.get("rows", RECORDS))
    (tmp_path / "there.jsonl").write_text("mine\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    files = [f"--{way}={tmp_path / changed.get(way, f'{way}.jsonl')}" for way in ("in", "out")]
    more = [changed["more"]] if "more" in changed else []
    assert main(["predict", changed.get("model", "mood"), *files, *more, address]) == code
    assert told in capfd.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_tune_from_a_tuned_prompt(
    tuned: str, server: Server, address: str, train: str, llama: BaseModel, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is spooled with the job: what becomes of the one that is published doesn't matter."""
    shutil.copytree(server.models / "mood", server.models / "origin")
    before = PeftPromptTuning.load(str(server.models / "origin"), llama).tuned
    assert main(["tune", "first", f"--base-model={T5}", train, *ENDLESS, address, "--detach"]) == 0
    running = capfd.readouterr().out.strip()
    more = ["--num-epochs=2", "--batch-size=8"]
    assert main(["tune", "second", "--from=origin", train, *more, address, "--detach"]) == 0
    id = capfd.readouterr().out.strip()
    shutil.rmtree(server.models / "origin")
    assert main(["cancel", running, address]) == 0
    assert main(["watch", id, address]) == 0
    capfd.readouterr()
    assert main(["show", id, address]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"^num_virtual_tokens +4 +tuned prompt origin$", shown, re.MULTILINE)
    assert re.search(rf"^base_model +{LLAMA} +tuned prompt origin$", shown, re.MULTILINE)
    request = {"prompt_tuning_init_prompt": "origin", "num_epochs": 2, "batch_size": 8}
    here = tune(make_plan(request, RECORDS, None, SETTINGS, predecessor=Predecessor("origin", before)), llama)
    there = PeftPromptTuning.load(str(server.models / "second"), llama).tuned
    assert torch.equal(there.prompt.tensors["DECODER"], here.prompt.tensors["DECODER"])
    for name in ("prompt_tuning_init_prompt", "prompt_tuning_init_prompt_sha256"):
        assert there.tuning_parameters[name] == here.tuning_parameters[name]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from=never"], "prompt_tuning_init_prompt: 'never' is not allowed"),
        (["--from=../models/mood"], "prompt_tuning_init_prompt: '../models/mood' is not allowed"),
        (["--from=mood", "--num-virtual-tokens=5"], "num_virtual_tokens: 5 is not allowed. Allowed: 4, as"),
        (["--from=mood", f"--base-model={T5}"], "base_model: 'tiny-t5' is not allowed. Allowed: tiny-llama"),
        (["--from=mood", "--prompt-tuning-init-text=a"], "prompt_tuning_init_text: 'a' is not allowed"),
    ],
)
def test_a_start_that_cannot_be(
    tuned: str,
    address: str,
    train: str,
    arguments: list[str],
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """To `tune` and to `check` alike."""
    for command in ("tune", "check"):
        assert main([command, "never", train, *arguments, address]) == 1
        assert told in capfd.readouterr().err


def test_check_a_training_that_goes_on(
    tuned: str, address: str, train: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "never", "--from=mood", train, address, "--json"]) == 0
    (report,) = objects(capfd.readouterr().out)
    assert report["parameters"]["prompt_tuning_init_prompt"] == "mood"
    assert report["parameters"]["origins"]["base_model"] == "tuned prompt mood"
    assert main(["check", "never", train, address]) == 2
    assert "--base-model is needed" in capfd.readouterr().err


def test_list_and_show(tuned: str, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--model-name=mood", address]) == 0
    head, row = capfd.readouterr().out.splitlines()
    assert head.split() == ["TRAINING", "STATE", "MAKES", "NAME", "BASE", "MODEL", "SUBMITTED"]
    assert row.split()[:5] == [tuned, "COMPLETED", "prompt", "mood", LLAMA]
    assert main(["list", "--state=ERRORED", address, "--json"]) == 0
    assert capfd.readouterr().out == ""
    assert main(["list", "--until=2020-01-01", address, "--json"]) == 0
    assert capfd.readouterr().out == ""
    assert main(["show", tuned, address]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith(f"{tuned}  COMPLETED  mood")
    assert re.search(r"^num_epochs +30 +request$", shown, re.MULTILINE)
    assert "The course of the loss" in shown
    assert main(["show", tuned, address, "--json"]) == 0
    (training,) = objects(capfd.readouterr().out)
    assert len(training["points"]["loss"]) == 30
    assert training["verdict"]["course"]


def test_plot(tuned: str, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "curve.png"
    assert main(["plot", tuned, address, "-o", str(file)]) == 0
    assert capfd.readouterr().out == f"{file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def other(server: Server) -> str:
    """The id of a training of `quick`, on another base model, with records to validate with."""
    with TuningClient(f"localhost:{server.port}") as client:
        id = client.tune("quick", base_model=T5, records=RECORDS, validation_records=RECORDS, **QUICK)
        assert client.wait(id).state == "COMPLETED"
    return id


def test_evaluate(
    tuned: str, other: str, address: str, train: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On what it was trained on, but for one record, whose label is another."""
    file, wrong, matrix = tmp_path / "test.jsonl", tmp_path / "wrong.jsonl", tmp_path / "matrix.png"
    turned = {**RECORDS[0], "output": "bad"}
    file.write_text("\n".join(map(json.dumps, [turned, *RECORDS[1:]])))
    request = ["evaluate", "mood", f"--test={file}", "--against=quick", address]
    assert main([*request, f"--wrong={wrong}", f"--matrix={matrix}"]) == 0
    out, told = capfd.readouterr()
    assert re.search(r"^ +mood +untuned base +quick +always 'bad'$", out, re.MULTILINE)
    assert re.search(r"^accuracy +0\.875 \[0\.529, 0\.978\] ", out, re.MULTILINE)
    assert re.search(r"^bad +4 +1 +0$\n^good +0 +3 +0$", out, re.MULTILINE)
    assert "- loss and perplexity of quick are left out: its base model, tiny-t5, is another one" in out
    # Answers and losses of three.
    assert re.search(r"^48 of 48, \d+ s\n\Z", told, re.MULTILINE)
    assert objects(wrong.read_text()) == [
        {"record": 1, "input": turned["input"], "expected": "bad", "answered": "good"}
    ]
    assert matrix.read_bytes().startswith(b"\x89PNG")
    assert main([*request, "--json", "--tuning-task=summarization"]) == 0
    (report,) = objects(capfd.readouterr().out)
    assert report["scores"]["tuned"]["exact_match"]["value"] == 7 / 8
    assert "accuracy" not in report["scores"]["tuned"]
    assert report["models"]["against"] == {"model_name": "quick", "base_model": T5, "max_new_tokens": 3}


def test_evaluate_in_python(tuned: str, address: str) -> None:
    """The same request, and every wrong answer that is asked for."""
    seen: list[Any] = []
    records = [{"text": record["input"], "label": "none"} for record in RECORDS]
    with TuningClient(address.removeprefix("--server=")) as client:
        report = client.evaluate("mood", records, on_progress=seen.append, wrong_answers=3)
        whole = client.evaluate("mood", RECORDS, tuning_task="classification")
        for field in ("wrong_answers", "max_new_tokens", "truncate_input_tokens"):
            wrong: dict[str, Any] = {field: -1}
            with pytest.raises(ServerError, match=f"^{field}: -1 is not allowed") as error:
                client.evaluate("mood", RECORDS, **wrong)
            assert error.value.status == "INVALID_ARGUMENT"
        with pytest.raises(ServerError, match="test_stream: no records"):
            client.evaluate("mood")
    assert (seen[-1].done, seen[-1].of) == (32, 32)
    assert report["wrong_answers"] == 8
    assert [one["record"] for one in report["wrong"]] == [1, 2, 3]
    assert "wrong" not in whole
    assert whole["scores"]["tuned"]["accuracy"]["value"] == 1
    assert whole["scores"]["tuned"]["loss"]["value"] < whole["scores"]["untuned"]["loss"]["value"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["never"], 1, "NOT_FOUND: Model 'never' not found"),
        (["mood", "--against=never"], 1, "NOT_FOUND: Model 'never' not found"),
        (["mood", "--max-new-tokens=5000"], 1, "INVALID_ARGUMENT: max_new_tokens: 5000 is not allowed"),
        (["mood", "--wrong=/never/wrong.jsonl"], 2, "caikit-pt: /never/wrong.jsonl can't be written: "),
        (["mood", "--matrix=/"], 2, "caikit-pt: / can't be written: "),
        (["mood", "--output-field=label"], 2, "caikit-pt: "),
    ],
)
def test_an_evaluation_that_is_refused(
    tuned: str,
    address: str,
    train: str,
    arguments: list[str],
    status: int,
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In one line."""
    assert main(["evaluate", *arguments, train.replace("--train", "--test"), address]) == status
    out, error = capfd.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith(told)


def test_test_records_that_are_none(
    tuned: str, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test.jsonl"
    for text, told in (("", "no records"), ('{"input": "a secret"}', "line 1, column 1: fields “input”")):
        file.write_text(text)
        assert main(["evaluate", "mood", f"--test={file}", address]) == 2
        error = capfd.readouterr().err
        assert told in error
        assert "secret" not in error
    assert main(["evaluate", "mood", "--test-on-server=test.jsonl", address]) == 1
    assert "--test-on-server: 'test.jsonl' is not allowed" in capfd.readouterr().err


def test_no_text_of_a_record_is_in_the_log(tuned: str, server: Server) -> None:
    records = [*RECORDS, {"input": "swordfish " * 2000, "output": "swordfish"}]
    with TuningClient(f"localhost:{server.port}") as client:
        with pytest.raises(ServerError, match=r"1 records that mood can't be asked with \(record 9\)"):
            client.evaluate("mood", records)
        client.evaluate("mood", records, truncate_input_tokens=10, wrong_answers=9)
    assert "swordfish" not in server.log.read_text()


def test_compare(
    tuned: str, other: str, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curves.png"
    assert main(["compare", tuned, other, address, "-o", str(file)]) == 0
    told = capfd.readouterr().out
    assert re.search(rf"^1  {tuned} +mood +{LLAMA} +COMPLETED ", told, re.MULTILINE)
    assert re.search(r"^num_epochs +30 \(request\) +2 \(request\)$", told, re.MULTILINE)
    assert re.search(r"^accuracy +- +\d\.\d+ \[", told, re.MULTILINE)
    assert f"- {tuned}: nothing is known of how it does on validation records" in told
    assert file.read_bytes().startswith(b"\x89PNG")
    assert main(["compare", tuned, other, address, "--json"]) == 0
    (found,) = objects(capfd.readouterr().out)
    with TuningClient(address.removeprefix("--server=")) as client:
        assert found == client.compare(tuned, other)
    assert main(["compare", tuned, tuned, address]) == 2
    assert capfd.readouterr().err == "caikit-pt: compare takes the ids of two trainings or more\n"
    assert main(["compare", tuned, "never", address]) == 1
    assert capfd.readouterr().err.startswith("NOT_FOUND: ")


def test_check(address: str, train: str, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    request = ["check", "never", f"--base-model={T5}", train, *QUICKLY, address]
    assert main(request) == 0
    told = capfd.readouterr().out
    assert "updates                2\n" in told
    assert "- 8 records are few to learn from" in told
    assert main([*request, "--json"]) == 0
    (report,) = objects(capfd.readouterr().out)
    assert report["source_tokens"]["longest"] > report["target_tokens"]["longest"]
    assert not (server.models / "never").exists()


def test_cancel(address: str, train: str, capfd: pytest.CaptureFixture[str]) -> None:
    request = ["tune", "ended", f"--base-model={T5}", train, *ENDLESS, address, "--detach"]
    assert main(request) == 0
    id = capfd.readouterr().out.strip()
    assert main(["cancel", id, address]) == 0
    assert capfd.readouterr().out == "CANCELED\n"
    assert main(["watch", id, address]) == 3
    assert capfd.readouterr().out == "CANCELED\n"


def test_a_training_that_had_ended_is_not_cancelled(
    tuned: str, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", tuned, address]) == 1
    assert capfd.readouterr().out == "COMPLETED\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "never"], "NOT_FOUND: "),
        (["watch", "never"], "NOT_FOUND: "),
        (["cancel", "never"], "NOT_FOUND: "),
        (["list", "--state=DONE"], "INVALID_ARGUMENT: states: 'DONE' is not allowed. Allowed: QUEUED"),
        (["generate", "never", "text"], "NOT_FOUND: "),
    ],
)
def test_what_the_server_refuses(
    address: str, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, address]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith(told)


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    nobody = f"--server=localhost:{free_port()}"
    for command in (["list"], ["health"], ["watch", "some"], ["generate", "some", "text"]):
        assert main([*command, nobody]) == 4
        error = capfd.readouterr().err
        assert error.startswith("UNAVAILABLE: ")
        # A server with TLS looks the same to whoever asks without.
        assert command == ["health"] or "Is a server there? Does it want TLS (--tls, --ca)" in error


@pytest.mark.parametrize(
    "command",
    [["plot", "some", "-o"], ["compare", "a", "b", "-o"], ["evaluate", "some", "--test=x", "--matrix"]],
)
def test_a_picture_is_png(command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Known before a server is asked."""
    for name in ("a.jpg", "a", "nowhere/a.png"):
        assert main([*command, str(tmp_path / name), f"--server=localhost:{free_port()}"]) == 2
        assert re.search(
            r"names end in \.png$" if name != "nowhere/a.png" else r"can't be written", capfd.readouterr().err
        )


def test_an_address_is_a_host_and_a_port(capfd: pytest.CaptureFixture[str]) -> None:
    for text in ("localhost", "http://localhost:8085", "localhost:", ":8085", "localhost:http", "::1:8085"):
        with pytest.raises(SystemExit) as exit:
            main(["list", f"--server={text}"])
        assert exit.value.code == 2
        assert f"HOST:PORT is expected, such as localhost:8085, and not '{text}'" in capfd.readouterr().err
    for text, told in (("a:1,", "HOST:PORT is expected"), ("a:1,a:1", "each server once is expected")):
        with pytest.raises(SystemExit):
            main(["list", f"--server={text}"])
        assert told in capfd.readouterr().err
    assert main(["list", f"--server=[::1]:{free_port()}"]) == 4
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert "localhost:8085 by default" in capfd.readouterr().out


@pytest.mark.parametrize("text", ["2 days ago", "soon", "3y", "-1d", "2026-13-01", "999999w"])
def test_what_is_no_time(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["list", f"--since={text}"])
    assert exit.value.code == 2
    assert f"'{text}' is no time. Allowed: a date (2026-01-31), a moment" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("3D", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_how_long_ago(text: str, ago: timedelta) -> None:
    assert abs(datetime.now(UTC) - ago - moment(text)) < timedelta(minutes=1)


def test_days_and_moments_are_those_of_utc() -> None:
    today = moment("today")
    assert (today.hour, today.minute, today.tzinfo) == (0, 0, UTC)
    assert today - moment("Yesterday") == timedelta(days=1)
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T14:00") == moment("2026-01-31T16:00+02:00")


def test_a_model_is_as_good_as_the_id_of_its_latest_training(
    tuned: str, address: str, train: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For what only looks; what changes a training wants its id, and is told which that is."""
    assert main(["show", "mood", address, "--json"]) == 0
    out, told = capfd.readouterr()
    assert json.loads(out)["training_id"] == tuned
    assert told == f"mood: its latest training, {tuned}\n"
    assert main(["plot", "mood", address, "-o", str(tmp_path / "mood.png")]) == 0
    assert main(["watch", "mood", address]) == 0
    capfd.readouterr()
    for command in ("cancel", "pause", "resume"):
        assert main([command, "mood", address]) == 1
        assert capfd.readouterr().err.endswith(f"The latest training of the model mood is {tuned}\n")


def test_list_since(tuned: str, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    for since, found in (("yesterday", True), ("2h", True), ("2026-01-01", True), ("0m", False)):
        assert main(["list", f"--since={since}", "--model-name=mood", address, "--json"]) == 0
        assert [one["training_id"] for one in objects(capfd.readouterr().out)] == [tuned] * found


def test_a_refusal_names_the_options_that_were_given(
    address: str, train: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It said train_stream and val_stream to somebody who gave files."""
    request = ["check", "never", f"--base-model={T5}", *QUICKLY, address]
    file = train.removeprefix("--train=")
    assert main([*request, train, f"--validation={file}", "--validation-share=0.5"]) == 1
    assert "0 or unset where there is a --validation\n" in capfd.readouterr().err
    assert main([*request, "--train-on-server=nothing.jsonl"]) == 1
    assert "--train-on-server: " in capfd.readouterr().err


def test_health(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["health", address]) == 0
    assert capfd.readouterr().out == "SERVING\n"
    assert main(["health", f"{address},localhost:{free_port()}"]) == 4
    assert capfd.readouterr().out == "SERVING\n"


def test_one_of_several_servers_is_enough(
    tuned: str, server: Server, train: str, capfd: pytest.CaptureFixture[str]
) -> None:
    several = f"--server=localhost:{server.port},localhost:{free_port()}"
    for _ in range(2):
        assert main(["generate", "mood", "The lamp is awful", "--max-new-tokens=3", several]) == 0
        assert capfd.readouterr().out.startswith("bad")
    assert main(["evaluate", "mood", train.replace("--train", "--test"), several]) == 0


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{}"], ", line 1, column 1: no fields. Expected: a record with the fields input and output (or "),
        (
            [json.dumps(RECORDS[0]), "", '{"input": "secret", "output"'],
            ", line 3, column 29: the end, which isn't JSON",
        ),
        ([""], ": no records. Expected: at least one record"),
        (["[7]"], ", line 1, column 1: “[7]”. Expected: a record a line"),
        (
            ['{"input": "secret", "output": 4}'],
            ", line 1, column 31 (output): the number “4”, without quotes. Expected: text that is not empty",
        ),
    ],
)
def test_a_file_that_is_none_of_records(
    address: str, tmp_path: Path, lines: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(lines))
    assert main(["tune", "wrong", f"--base-model={T5}", f"--train={file}", address]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"caikit-pt: {file}{told}")
    assert "secret" not in error
    for none, why in ((f"{file}.no", "name ends in .jsonl"), (f"{file}.csv", "No such file")):
        assert main(["tune", "wrong", f"--base-model={T5}", f"--train={none}", address]) == 2
        assert why in capfd.readouterr().err


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_other_files_of_records(
    address: str, tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"train.{ending}"
    rows = [{"id": str(number), **record} for number, record in enumerate(RECORDS)]
    if ending == "json":
        file.write_text(json.dumps(rows))
    else:
        with file.open("w", encoding="utf-8-sig", newline="") as output:
            writer = csv.DictWriter(output, ["id", "input", "output"])
            writer.writeheader()
            writer.writerows([*rows, {"id": "9", "input": "two\nlines,\u2028and a comma", "output": "x"}])
    assert main(["check", "never", f"--base-model={T5}", f"--train={file}", *QUICKLY, address, "--json"]) == 0
    out, told = capfd.readouterr()
    assert json.loads(out)["records"] == len(RECORDS) + (ending == "csv")
    assert re.fullmatch(rf"{file}: \d records have a field 'id', which nothing reads .*\n", told)


def test_fields_of_other_names(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a file that is sent along: on the command line, and in Python."""
    file = tmp_path / "train.csv"
    file.write_text("question;answer\n" + "".join(f"{one['input']};{one['output']}\n" for one in RECORDS))
    request = ["check", "never", f"--base-model={T5}", f"--train={file}", *QUICKLY, address, "--json"]
    assert main(request) == 2
    assert "line 1, column 1: fields “question”, “answer”" in capfd.readouterr().err
    assert main([*request, "--input-field=question", "--output-field=answer"]) == 0
    out, told = capfd.readouterr()
    assert (json.loads(out)["records"], told) == (len(RECORDS), "")
    pairs = [{"prompt": one["input"], "completion": one["output"]} for one in RECORDS]
    with TuningClient(address.removeprefix("--server=")) as client:
        names = {"input_field": "question", "output_field": "answer"}
        assert client.check("never", base_model=T5, records=file, **names)["records"] == len(RECORDS)
        assert client.check("never", base_model=T5, records=pairs)["records"] == len(RECORDS)
        assert "are read with prompt as input and completion as output" in caplog.text
        with pytest.raises(
            ServerError, match=r"train_stream: .*train.csv, line 1, column 1: fields"
        ) as error:
            client.check("never", base_model=T5, records=file)
        assert error.value.status == "INVALID_ARGUMENT"


def test_records_that_are_too_many_for_a_request(address: str) -> None:
    with TuningClient(address.removeprefix("--server=")) as client:
        many = [{"input": "x" * 2**20, "output": "y"}] * 65
        with pytest.raises(ServerError, match=r"take 65 MiB.*file_source_base"):
            client.tune("large", base_model=T5, records=many)


@pytest.mark.parametrize(
    "arguments",
    [[], ["tune", "name"], ["tune", "name", "--base-model=b"], ["what"], ["list", "--since=soon"]],
)
def test_a_wrong_command(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: caikit-pt" in capfd.readouterr().err


def test_ctrl_c_leaves_the_training_running(address: str, train: str, server: Server) -> None:
    command = [sys.executable, "-m", "caikit_pt.cli", "tune", "held", f"--base-model={T5}", train]
    with subprocess.Popen(
        [*command, *ENDLESS, address], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        told = ""
        while "update " not in told:
            told += process.stderr.readline()
        # Python drops an interrupt that comes while it frees an object; whoever waits presses again.
        rest = None
        for _ in range(8):
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                rest = process.communicate(timeout=15)[1]
                break
    assert rest is not None
    assert process.returncode == 130
    id = told.split()[1]
    assert rest.endswith(f"The training goes on. Watch it again: caikit-pt watch {id}\n")
    assert "Traceback" not in rest
    with TuningClient(f"localhost:{server.port}") as client:
        assert client.training(id).state == "RUNNING"
        assert client.cancel(id) == "CANCELED"


def test_a_terminal_has_a_bar(address: str, train: str) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = [sys.executable, "-m", "caikit_pt.cli", "tune", "bar", f"--base-model={T5}", train]
    with subprocess.Popen([*command, *QUICKLY, address], stderr=theirs, cwd=ROOT) as process:
        os.close(theirs)
        shown = read_all(ours)
    assert process.returncode == 0
    assert "100%|" in shown
    assert "2/2" in shown
    assert "epoch 2, loss " in shown
    assert "published as bar" in shown
    # It has a length from the beginning.
    assert "0update [" not in shown


def read_all(terminal: int) -> str:
    """What is written until the other side is closed."""
    found = b""
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:
            read = b""
        if not read:
            os.close(terminal)
            return found.decode()
        found += read


def test_a_reader_that_goes_away(tuned: str, address: str) -> None:
    """`caikit-pt list | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "caikit_pt.cli", "list", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read()
    assert "Traceback" not in told
    assert process.returncode == 0


def test_a_watch_survives_a_restart(tmp_path: Path) -> None:
    server = Server(tmp_path, CHECKPOINT_SECONDS=0.5)
    try:
        with server.start() as client:
            id = client.tune("kept", base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 150})
            lost: list[ServerError] = []
            events = client.watch(id, on_lost=lost.append)
            seen = [next(events)]
            wait_for(lambda: client.training(id).progress)
            assert server.stop() < 10
            server.start().close()
            seen += list(events)
        assert [error.status for error in lost] == ["UNAVAILABLE"]
        assert [event.number for event in seen] == list(range(1, len(seen) + 1))
        assert [event.state for event in seen if event.kind == "state"][-1] == "COMPLETED"
    finally:
        server.close()


def run(*arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "caikit_pt.cli", *arguments],
        input=input,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert time.monotonic() - began < 60
    return done
