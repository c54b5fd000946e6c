"""Source prompts that a server trains as its jobs: over gRPC, killed, cancelled, refused, published."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import caikit_pt
from caikit_pt import settings
from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.client import CANCELED, COMPLETED, ServerError, TuningClient
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from tests.conftest import LLAMA, SETTINGS
from tests.runtime.servers import Server, signalled
from tests.tuning.sources import NAMED
from tests.tuning.training import PAIRS

TASKS: dict[str, Any] = {
    "mood": {"records": PAIRS[:10], "validation": PAIRS[14:]},
    "named": {"records": NAMED, "verbalizer": "Name it: {{input}}", "tuning_task": "generation"},
}
QUICK: dict[str, Any] = {"num_virtual_tokens": 3, "num_epochs": 2, "batch_size": 6}
TAUGHT: dict[str, Any] = {**QUICK, "teacher_epochs": 2, "num_ranks": 2}
# Without validations.
BARE: dict[str, Any] = {"mood": PAIRS[:10], "named": NAMED}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served") / "sources"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    (root.parent / "files").mkdir()
    settings = {"CHECKPOINT_SECONDS": 0.1, "MAX_ATTEMPTS": 100, "SOURCE_PROMPT_BASE": root}
    made = Server(root.parent, DATA_STREAMS_FILE_SOURCE_BASE=root.parent / "files", **settings)
    made.start().close()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{server.port}") as client:
        yield client


def here(llama: BaseModel, tasks: dict[str, Any], **parameters: Any) -> SourcePrompt:
    """What the same request comes to in this process."""
    return caikit_pt.train_source(llama, tasks, **parameters).source


def same(one: SourcePrompt, other: SourcePrompt) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("shared", "columns", "rows")
    )


def until_kept(client: TuningClient, id: str, phase: str) -> None:
    """Until a snapshot of `phase` is kept, which goes on."""
    at = ""
    for event in client.watch(id):
        at = event.text if event.kind == "phase" else at
        if (at, event.kind) == (phase, "checkpoint"):
            return
    raise AssertionError(client.training(id).reasons)


def test_a_source_is_trained_published_and_started_from(
    client: TuningClient, root: Path, llama: BaseModel
) -> None:
    id = client.train_source("group/mine", LLAMA, TASKS, default=True, **TAUGHT)
    events = list(client.watch(id))
    training = client.training(id)
    assert (training.state, training.makes, training.path) == (COMPLETED, "source", "group/mine/1")
    assert (training.model_name, list(training.tasks)) == ("group/mine", ["mood", "named"])
    source = SourceLibrary(root).read("group/mine")
    assert same(source, here(llama, TASKS, **TAUGHT))
    assert source.manifest is not None
    assert source.manifest.default
    assert source.manifest.recipe["training_id"] == id
    # What is told of it.
    phases = [event.text for event in events if event.kind == "phase"]
    assert phases == ["loading", "teachers", "sources", "publishing"]
    (told,) = (event for event in events if event.kind == "artifact")
    assert str(told) == "published as group/mine/1"
    validations = [event.data["scores"] for event in events if event.kind == "validation"]
    assert {"mood/teacher_loss"} <= validations[0].keys()
    assert {"loss", "mood/loss"} <= validations[-1].keys()
    # An epoch of teachers has two updates, one of the source three.
    assert [step for step, _ in training.points["loss"]] == list(range(1, 11))
    assert [step for step, _ in training.points["validation_loss"]] == [7, 10]
    mood, named = training.verdict["tasks"]
    assert (mood["name"], mood["records"], named["metrics"]) == ("mood", 10, {})
    assert mood["metrics"].keys() >= {"loss", "teacher_loss"}
    assert "Published as the source prompt group/mine/1." in training.reasons
    assert "named: 6 records are few to learn from" in training.reasons
    assert training.parameters["num_ranks"] == 2
    assert training.parameters["origins"]["num_ranks"] == "request"
    assert training.parameters["tasks"][1]["verbalizer"] == "Name it: {{input}}"
    assert not list((root / "group" / "mine").glob(".*.new"))
    # A second one, and a prompt that starts from it.
    started = {
        "base_model": LLAMA,
        "records": PAIRS,
        "num_epochs": 1,
        "tuning_type": "MULTITASK_PROMPT_TUNING",
        "prompt_tuning_init_method": "AVERAGE_SOURCE",
    }
    newest = {**started, "prompt_tuning_init_source_model": "group/mine", "training_id": "newest"}
    assert client.wait(client.tune("newest", **newest)).parameters["num_virtual_tokens"] == 3
    again = client.train_source("group/mine", LLAMA, TASKS, **{**QUICK, "teacher_epochs": 0})
    assert client.wait(again).path == "group/mine/2"
    # The same request is the same training, whatever it would start from now.
    assert client.tune("newest", **newest) == "newest"
    with pytest.raises(ServerError, match="a training with other contents"):
        client.tune("newest", **{**newest, "prompt_tuning_init_source_model": "group/mine/2"})
    target = client.tune("target", prompt_tuning_init_source_model="group/mine/2", **started)
    assert client.wait(target).parameters["prompt_tuning_init_source_model"] == "group/mine/2"
    assert client.trained_by("group/mine") == ""
    compared = client.compare(id, again)
    assert compared["parameters"]["num_ranks"][0]["value"] == 2


def test_killed_in_each_phase_it_ends_with_the_same_bits(
    client: TuningClient, server: Server, root: Path, llama: BaseModel
) -> None:
    """First its process is killed, then the server with it."""
    long = {**QUICK, "num_epochs": 30, "teacher_epochs": 25}
    id = client.train_source("killed", LLAMA, BARE, **long)
    until_kept(client, id, "teachers")
    assert signalled(server.worker(id), signal.SIGKILL)
    until_kept(client, id, "sources")
    worker = server.worker(id)
    server.kill()
    # It may have left already, since nobody listens.
    signalled(worker, signal.SIGKILL)
    with server.start() as again:
        training = again.wait(id)
    assert (training.state, training.path) == (COMPLETED, "killed/1")
    assert training.progress is not None
    assert [step for step, _ in training.points["loss"]] == list(range(1, training.progress.steps + 1))
    assert same(SourceLibrary(root).read("killed"), here(llama, BARE, **long))


@pytest.mark.parametrize("phase", ["teachers", "sources"])
def test_one_that_is_cancelled_publishes_nothing(client: TuningClient, root: Path, phase: str) -> None:
    """Submitted twice with one id, it is one training."""
    endless = {**QUICK, "num_epochs": 10_000, "teacher_epochs": 10_000 * (phase == "teachers")}
    request = {"name": "cancelled", "base_model": LLAMA, "tasks": BARE, **endless}
    assert client.train_source(training_id=f"one-{phase}", **request) == f"one-{phase}"
    assert client.train_source(training_id=f"one-{phase}", **request) == f"one-{phase}"
    with pytest.raises(ServerError, match=r"training_id: .* that of a training with other contents"):
        client.train_source(training_id=f"one-{phase}", **{**request, "default": True})
    assert len(list(client.trainings(model_name="cancelled", states=["QUEUED", "RUNNING"]))) == 1
    until_kept(client, f"one-{phase}", phase)
    assert f"({phase}), update" in client.training(f"one-{phase}").reasons[0]
    assert client.cancel(f"one-{phase}") == CANCELED
    assert not (root / "cancelled").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name out of its root": ({"name": "../up"}, "name: '../up' is not allowed"),
    "a version": ({"name": "mine/2"}, "name: 'mine/2' is not allowed"),
    "no name": ({"name": ""}, "name: '' is not allowed"),
    "an id": ({"training_id": "a b"}, "training_id: 'a b' is not allowed"),
    "a base model": ({"base_model": "nowhere"}, "base_model: 'nowhere' is not allowed"),
    "no base model": ({"base_model": ""}, "base_model: "),
    "a single task": ({"tasks": {"mood": PAIRS}}, "tasks: 'mood' is not allowed. Allowed: 2 to 1,000 tasks"),
    "the name of a task": ({"tasks": {**BARE, "a/b": PAIRS}}, "tasks: 'a/b' is not allowed"),
    "a record": (
        {"tasks": {**BARE, "bad": [{"input": "", "output": "x"}]}},
        "tasks.bad.train_stream: record 1, input: “” is not allowed",
    ),
    "no records": ({"tasks": {**BARE, "bad": []}}, "tasks.bad.train_stream: no records"),
    "a file": (
        {"tasks": {**BARE, "bad": {"file": "../tasks.jsonl"}}},
        "tasks.bad.train_stream: '../tasks.jsonl' is not allowed",
    ),
    "a validation file": (
        {"tasks": {**BARE, "bad": {"records": PAIRS, "validation_file": "none.jsonl"}}},
        "tasks.bad.val_stream: 'none.jsonl' is not allowed",
    ),
    "a verbalizer": (
        {"tasks": {**BARE, "bad": {"records": PAIRS, "verbalizer": "nothing"}}},
        "tasks.bad.verbalizer: 'nothing' is not allowed",
    ),
    "what no task has": (
        {"tasks": {**BARE, "bad": {"records": PAIRS, "seed": 1}}},
        "tasks.bad: 'seed' is not allowed. Allowed: records, or a mapping with records, file",
    ),
    "a parameter of sources": ({"num_ranks": 0}, "num_ranks: 0 is not allowed"),
    "a parameter of all": ({"num_epochs": 0}, "num_epochs: 0 is not allowed"),
    "a source to start from": (
        {"prompt_tuning_init_method": "AVERAGE_SOURCE"},
        "tuning_config.prompt_tuning_init_method: 'AVERAGE_SOURCE' is not allowed",
    ),
    "a parameter that there isn't": ({"nonsense": 1}, "nonsense"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_makes_no_job(client: TuningClient, root: Path, kind: str) -> None:
    changed, told = REFUSED[kind]
    before = len(list(client.trainings()))
    with pytest.raises(ServerError, match=re.escape(told)) as error:
        client.train_source(**{"name": "refused", "base_model": LLAMA, "tasks": BARE, **QUICK, **changed})
    assert error.value.status == "INVALID_ARGUMENT"
    assert len(list(client.trainings())) == before
    assert not (root / "refused").exists()


@pytest.mark.parametrize("kind", sorted(REFUSED.keys() - {"an id"}))
def test_what_is_refused_is_refused_by_a_dry_run_too(client: TuningClient, kind: str) -> None:
    changed, told = REFUSED[kind]
    with pytest.raises(ServerError, match=re.escape(told)):
        client.check_source(**{"name": "refused", "base_model": LLAMA, "tasks": BARE, **QUICK, **changed})


@pytest.mark.parametrize("on_server", [True, False])
def test_a_dry_run_tells_what_a_training_does(
    client: TuningClient,
    server: Server,
    root: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    on_server: bool,
) -> None:
    """Of a server, and here: its updates are those that are made."""
    now = replace(SETTINGS, source_prompt_base=str(root))
    monkeypatch.setattr(settings, "current", lambda: now)
    asked: dict[str, Any] = {**TAUGHT, "most_records": 4}
    report = client.check_source("dry", LLAMA, BARE, **asked)
    assert not (root / "dry").exists()
    assert not list(client.trainings(model_name="dry"))
    if on_server:
        trained = client.training(client.train_source("wet", LLAMA, BARE, **asked))
        trained = client.wait(trained.training_id)
        assert trained.state == COMPLETED, trained.reasons
        assert trained.progress is not None
        assert trained.progress.steps == report["updates"] + report["teacher_updates"]
        assert trained.parameters == {**report["parameters"], "default": False}
    for name, records in BARE.items():
        (root.parent / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    command = [
        *("sources", "train", "dry", f"--base-model={LLAMA}", "--dry-run", "--json"),
        *(f"--task={name}={root.parent}/{name}.jsonl" for name in BARE),
        *(f"--{name.replace('_', '-')}={value}" for name, value in asked.items()),
        *([f"--server=localhost:{server.port}"] if on_server else []),
    ]
    assert main(command) == 0
    told = json.loads(capfd.readouterr().out)
    assert not (root / "dry").exists()
    # The time is measured anew.
    assert {**told, "seconds": 0} == {**report, "seconds": 0}
    command.remove("--json")
    assert main(command) == 0
    out = capfd.readouterr().out
    assert f"teacher_updates        {report['teacher_updates']}" in out
    assert all(name in out for name in BARE)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_command_tells_what_is_refused(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """It ended in a traceback: its options of files are others than those of `tune`."""
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, next(iter(BARE.values())))))
    command = ["sources", "train", "alone", f"--base-model={LLAMA}", f"--task=a={tmp_path / 'a.jsonl'}"]
    assert main([*command, f"--server=localhost:{server.port}", *more]) == 1
    assert capfd.readouterr().err.startswith(
        "INVALID_ARGUMENT: tasks: 'a' is not allowed. Allowed: 2 to 1,000"
    )


def test_a_command_has_it_trained(
    client: TuningClient, server: Server, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With files that are sent along, or that lie on the server."""
    for name, records in BARE.items():
        lines = "\n".join(map(json.dumps, records))
        (root.parent / "files" / f"{name}.jsonl").write_text(lines)
    files = {False: f"{root.parent / 'files'}/", True: ""}
    for on_server, folder in files.items():
        asked = [
            *("sources", "train", "shell", f"--base-model={LLAMA}", f"--server=localhost:{server.port}"),
            *(f"--task={name}={folder}{name}.jsonl" for name in BARE),
            *("--verbalizer=named=Name it: {{input}}", "--num-virtual-tokens=3", "--num-epochs=1"),
            *(["--on-server"] if on_server else []),
        ]
        assert main(asked) == 0
        out, told = capfd.readouterr()
        assert out == "COMPLETED\n"
        assert f"published as shell/{1 + on_server}" in told
    first, second = (SourceLibrary(root).read(f"shell/{version}") for version in (1, 2))
    assert same(first, second)
    (id, *_) = (training.training_id for training in client.trainings(model_name="shell"))
    for command in (["list"], ["show", id]):
        assert main([*command, f"--server=localhost:{server.port}"]) == 0
    shown = capfd.readouterr().out
    assert re.search(rf"{id} +COMPLETED +source +shell/2 +{LLAMA}", shown)
    assert re.search(r"num_ranks +1 +default", shown)
    assert re.search(r"named +6 +- +generation +Name it: \{\{input\}\}", shown)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--server=localhost:1", "--state=here"], "--state is of a training here"),
        (["--detach"], "--detach is of a training of a server: --server HOST:PORT"),
        (["--on-server"], "--on-server is of a training of a server"),
    ],
)
def test_options_that_do_not_go_together(
    more: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sources", "train", "x", f"--base-model={LLAMA}", "--task=a=a.jsonl", *more]) == 2
    assert told in capfd.readouterr().err
