"""Source prompts that are trained at a command line and in Python, and trainings that start from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import caikit_pt
from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.data_model import TuningConfig
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.tuning.source_training import snapshots_in
from examples.local_server import ROOT
from tests.conftest import BASE_MODELS, LLAMA, SETTINGS, T5
from tests.tuning.sources import NAMED, REVERSED
from tests.tuning.training import HELD_OUT, PAIRS
from tests.whole import WHOLE

QUICK = ["--num-virtual-tokens=3", "--num-epochs=2", "--batch-size=6"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `source_prompt_base`, in this process and in those that it starts."""
    made = tmp_path / "sources"
    made.mkdir()
    monkeypatch.setenv("SOURCE_PROMPT_BASE", str(made))
    monkeypatch.setenv("BASE_MODELS_DIR", str(BASE_MODELS))
    now = replace(SETTINGS, source_prompt_base=str(made))
    monkeypatch.setattr("caikit_pt.settings.current", lambda: now)
    return made


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Records of tasks, and of one to validate with."""
    streams = {"mood": PAIRS[:10], "named": NAMED, "held": PAIRS[14:]}
    for name, records in streams.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {name: tmp_path / f"{name}.jsonl" for name in streams}


def command(files: dict[str, Path], name: str = "mine", model: str = LLAMA, *more: str) -> list[str]:
    return [
        *("sources", "train", name, f"--base-model={model}"),
        *(f"--task={task}={files[task]}" for task in ("mood", "named")),
        *("--verbalizer", "named=Name it: {{input}}", "--tuning-task", "named=generation"),
        *more,
        *QUICK,
    ]


@pytest.mark.parametrize("model", [LLAMA, T5])
def test_a_source_is_trained_published_and_started_from(
    root: Path,
    files: dict[str, Path],
    model: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    validation = f"--validation=mood={files['held']}"
    assert main(command(files, "group/mine", model, validation, "--teacher-epochs=1", "--num-ranks=2")) == 0
    out, told = capfd.readouterr()
    assert out == "group/mine/1\n"
    assert "teachers: update 1 of 8, epoch 1, loss " in told
    assert "sources: update 8 of 8, epoch 2, loss " in told
    assert " s to go" in told
    assert "sources: epoch 2, validation loss " in told
    assert caplog.text.count("6 records are few to learn from") == 1
    assert "named: 6 records are few" in caplog.text
    source = SourceLibrary(root).read("group/mine")
    assert source.manifest is not None
    mood, named = source.manifest.tasks
    assert (mood.records, named.records, named.verbalizer) == (10, 6, "Name it: {{input}}")
    assert mood.metrics.keys() >= {"loss", "teacher_loss"}
    assert source.manifest.recipe["num_ranks"] == source.num_ranks == 2
    started = PeftPromptTuning.train(
        model,
        HELD_OUT,
        TuningConfig(prompt_tuning_init_method="AVERAGE_SOURCE"),
        tuning_type="MULTITASK_PROMPT_TUNING",
        num_epochs=1,
        learning_rate=1e-9,
    )
    assert started.tuned.tuning_parameters["prompt_tuning_init_source_model"] == "group/mine/1"
    (prompt,) = started.tuned.prompt.tensors.values()
    torch.testing.assert_close(prompt, source.average())


def test_it_is_trained_in_python(
    root: Path, files: dict[str, Path], llama: BaseModel, tmp_path: Path
) -> None:
    """With the same bits as at the command line."""
    trained = caikit_pt.train_source(
        llama,
        {
            "mood": (json.loads(line) for line in files["mood"].read_text().splitlines()),
            "named": {"records": NAMED, "verbalizer": "Name it: {{input}}", "tuning_task": "generation"},
        },
        state=tmp_path / "state",
        num_virtual_tokens=3,
        num_epochs=2,
        batch_size=6,
        teacher_epochs=0,
    )
    found = trained.publish("python", default=True)
    assert found.name == "python/1"
    assert found.manifest is not None
    assert found.manifest.default
    assert main(command(files, "shell", LLAMA, "--teacher-epochs=0", "--json")) == 0
    shell = SourceLibrary(root).read("shell")
    assert all(
        torch.equal(getattr(shell, name), getattr(found, name)) for name in ("shared", "columns", "rows")
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verbalizer": "{{input}}"}, "tasks.two: 'no records' is not allowed"),
        (
            {"records": NAMED, "verbaliser": "x"},
            "tasks.two: 'verbaliser' is not allowed.*validation, verbalizer",
        ),
        (["nothing"], "tasks.two.train_stream: record 1"),
    ],
)
def test_tasks_that_can_not_be_read_are_refused_in_python(root: Path, given: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        caikit_pt.train_source(LLAMA, {"one": REVERSED, "two": given})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task=mood=other.jsonl"], "--task has mood twice"),
        (["--task=other"], "--task other can't be read. Expected: NAME=VALUE"),
        (["--task=a/b=x.jsonl"], "tasks: 'a/b' is not allowed"),
        (["--task=third=nowhere.jsonl"], "tasks.third.train_stream: nowhere.jsonl"),
        (
            ["--validation=other=x.jsonl"],
            "--validation other=x.jsonl is of no task. Expected: one of mood, named",
        ),
        (["--verbalizer=mood=nothing"], "tasks.mood.verbalizer: 'nothing' is not allowed"),
        (["--num-ranks=0"], "num_ranks: 0 is not allowed"),
        (
            ["--state=/dev/null/state"],
            "state: '/dev/null/state' is not allowed. Allowed: a directory that can",
        ),
        (["--base-model=nowhere"], "base_model: 'nowhere' is not allowed"),
    ],
)
def test_commands_that_can_not_be_carried_out(
    root: Path, files: dict[str, Path], more: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(files, "mine", LLAMA, *more)) == 2
    out, told = capfd.readouterr()
    assert not out
    assert message in told
    assert not list(root.iterdir())


def test_a_source_starts_from_none(
    root: Path, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """The help has the methods that there are for it, and no others."""
    with pytest.raises(SystemExit, match="2"):
        main(command(files, "mine", LLAMA, "--prompt-tuning-init-method=AVERAGE_SOURCE"))
    assert "--prompt-tuning-init-method {RANDOM,TEXT,SAMPLE_VOCAB}" in capfd.readouterr().err


def test_two_trainings_need_two_directories(
    root: Path, files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They would go on from each other's snapshots, or remove them."""
    state = tmp_path / "state"
    with snapshots_in(state, SETTINGS):
        assert main(command(files, "mine", LLAMA, f"--state={state}")) == 2
        assert "is not allowed. Allowed: a directory that no other training is at" in capfd.readouterr().err
        with pytest.raises(InvalidParameter, match=r"^state: "):
            caikit_pt.train_source(LLAMA, {"one": REVERSED, "two": NAMED}, state=state)
    assert main(command(files, "mine", LLAMA, f"--state={state}", "--teacher-epochs=0")) == 0
    assert not list(state.iterdir())


def test_a_name_that_can_not_be_published_is_refused_before_anything_is_trained(
    root: Path, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("../mine", "mine/2", "x.safetensors"):
        assert main(command(files, name)) == 2
        assert "update" not in capfd.readouterr().err


def test_it_goes_on_after_ctrl_c_and_kill(root: Path, files: dict[str, Path], tmp_path: Path) -> None:
    """And ends with the bits of one that wasn't ended. Its snapshots are gone then, and nothing else is."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "mine.txt").write_text("mine")
    epochs = 100 if WHOLE else 50
    long = [f"--num-epochs={epochs}", f"--teacher-epochs={epochs // 5}"]
    assert main([*command(files, "whole"), *long]) == 0
    environment = {**os.environ, "CHECKPOINT_SECONDS": "0.2"}
    wanted = [*command(files, "broken"), *long, f"--state={state}"]
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "caikit_pt.cli", *wanted],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        before = _snapshots(state)
        deadline = time.monotonic() + 100
        while _snapshots(state) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=100)
        assert process.returncode == (-number if number == signal.SIGKILL else 130), told
        assert number == signal.SIGKILL or b"The same command goes on from there." in told
    assert main(wanted) == 0
    whole, broken = (SourceLibrary(root).read(name) for name in ("whole", "broken"))
    assert all(
        torch.equal(getattr(whole, name), getattr(broken, name)) for name in ("shared", "columns", "rows")
    )
    assert [path.name for path in state.iterdir()] == ["mine.txt"]


def _snapshots(state: Path) -> int:
    """The number of the newest."""
    return max((int(path.stem) for path in state.glob("snapshots/*.json")), default=-1)
