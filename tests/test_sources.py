"""`caikit-pt sources` and its RPCs: what a server lists and shows, and what is done here without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.data_model import TuningConfig
from caikit_pt.module import PeftPromptTuning
from caikit_pt.runtime.tuning_messages import ListSourcesRequest
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source_library import SourceLibrary
from examples.local_server import ROOT
from tests.conftest import BASE_MODELS, LLAMA, T5, write_source
from tests.runtime.servers import RECORDS, Server
from tests.soft_prompt.sources import RECIPE, TASKS, drawn, published

MPT: dict[str, Any] = {
    "base_model": LLAMA,
    "records": RECORDS,
    "num_epochs": 1,
    "tuning_type": "MULTITASK_PROMPT_TUNING",
    "prompt_tuning_init_method": "EXACT_SOURCE_TASK",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, llama: BaseModel, t5: BaseModel) -> Path:
    root = tmp_path_factory.mktemp("served") / "sources"
    root.mkdir()
    published(root, llama.checkpoint, "damaged")
    (root / "damaged" / "1" / "adapter_model.safetensors").write_bytes(b"nothing")
    published(root, llama.checkpoint, "mine", default=True)
    published(root, llama.checkpoint, "mine", tokens=4)
    published(root, t5.checkpoint, "group/both", submodules=2)
    published(root, llama.checkpoint, "torn")
    (root / "torn" / "1" / "manifest.json").write_text('{"format_version": 1, "base')
    write_source(root / "flat", llama.checkpoint)
    write_source(root / "no plain name", llama.checkpoint)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    made = Server(root.parent, SOURCE_PROMPT_BASE=root)
    made.start().close()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{server.port}") as client:
        yield client


LISTED = ["damaged/1", "flat", "group/both/1", "mine/2", "mine/1", "torn/1"]


def test_a_server_lists_them(client: TuningClient, root: Path) -> None:
    found = {source.name: source for source in client.sources()}
    assert list(found) == LISTED
    assert str(root.parent) not in repr(found)
    one = found["mine/1"]
    assert (one.version, one.base_model, one.num_virtual_tokens, one.num_ranks) == (1, LLAMA, 5, 2)
    assert (one.is_default, one.problem, one.manifest) == (True, "", {})
    assert list(one.tasks) == [task.name for task in TASKS]
    both = found["group/both/1"]
    assert (both.num_transformer_submodules, both.num_virtual_tokens, both.width) == (2, 5, 128)
    flat = found["flat"]
    assert (flat.version, flat.created, flat.num_virtual_tokens, flat.sha256) == (0, None, 6, "")
    assert found["torn/1"].problem.startswith("manifest.json: it is no JSON")
    assert [source.name for source in client.sources(T5)] == ["group/both/1"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7])
def test_pages(client: TuningClient, size: int) -> None:
    """One behind the other they are the list; a source that goes meanwhile loses no other."""
    names, token, pages = [], "", 0
    while True:
        asked = ListSourcesRequest(page_size=size, page_token=token).to_proto()
        page = client._connection.answer(client._stubs.tuning.ListSources, asked)
        assert len(page.sources) <= size
        names += [source.name for source in page.sources]
        pages, token = pages + 1, page.next_page_token
        if not token:
            break
    assert names == LISTED
    assert pages == -(-len(LISTED) // size)
    asked = ListSourcesRequest(page_token="mine/3").to_proto()
    page = client._connection.answer(client._stubs.tuning.ListSources, asked)
    assert [source.name for source in page.sources] == ["mine/2", "mine/1", "torn/1"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "../x"}, "page_token"),
    ],
)
def test_pages_that_there_are_not(client: TuningClient, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ServerError, match=f"^{field}: ") as error:
        client._connection.answer(client._stubs.tuning.ListSources, ListSourcesRequest(**asked).to_proto())
    assert (error.value.status, error.value.field) == ("INVALID_ARGUMENT", field)


def test_a_server_shows_one(client: TuningClient, root: Path) -> None:
    source = client.source("mine")
    assert source.name == "mine/2"
    told = json.loads((root / "mine" / "2" / "manifest.json").read_text("utf-8"))
    assert source.manifest == {name: value for name, value in told.items() if name != "format_version"}
    assert client.source("mine/1").is_default
    flat = client.source("flat")
    assert (flat.num_virtual_tokens, flat.num_ranks, list(flat.tasks)) == (6, 1, ["first", "second"])
    assert flat.manifest == {}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "there: damaged, flat, group/both, mine, no plain name, torn"),
        ("damaged", "sha256 of its adapter_model.safetensors"),
        ("torn/1", "manifest.json: it is no JSON"),
        ("mine/3", "published source prompt"),
        ("", "1 to 200 letters"),
        ("../sources/mine", "1 to 200 letters"),
        ("/etc", "1 to 200 letters"),
        ("mine/.lock", "1 to 200 letters"),
        ("no plain name", "1 to 200 letters"),
        ("a/" * 600 + "a", "up to 1,024 characters"),
    ],
)
def test_one_that_cannot_be_shown(client: TuningClient, root: Path, name: str, told: str) -> None:
    with pytest.raises(ServerError) as error:
        client.source(name)
    assert (error.value.status, error.value.field) == ("INVALID_ARGUMENT", "name")
    assert told in str(error.value)
    assert str(root.parent) not in str(error.value)


def test_a_training_starts_from_a_task_by_its_name(client: TuningClient, root: Path) -> None:
    """What it was is in its parameters: the version that was found, and the index."""
    for task in ("urgency", 1, "1"):
        id = client.tune(
            "by-name", **MPT, prompt_tuning_init_source_model="mine", prompt_tuning_init_task=task
        )
        told = client.wait(id)
        assert told.state == "COMPLETED", told.reasons
        assert told.parameters["prompt_tuning_init_task"] == 1
        assert told.parameters["num_virtual_tokens"] == 4
        assert told.parameters["prompt_tuning_init_source_model"] == "mine/2"
        assert told.parameters["origins"]["prompt_tuning_init_source_model"] == "request: mine"
    report = client.check("x", **MPT, prompt_tuning_init_task="mood")
    assert report["records"] == 8
    with pytest.raises(ServerError, match=r"init_task_name: 'joy' .* of mine/2: mood, urgency"):
        client.tune("x", **MPT, prompt_tuning_init_source_model="mine", prompt_tuning_init_task="joy")
    both = {"prompt_tuning_init_task": 1, "prompt_tuning_init_task_name": "mood"}
    with pytest.raises(ServerError, match=r"init_task: 1 .*unset together with prompt_tuning_init_task_name"):
        client.tune("x", **MPT, **both)


def test_a_training_chooses_its_source(client: TuningClient, server: Server) -> None:
    """Over the wire: what it chose and how sure that is stand in its status and in the artifact."""
    chooses = {**MPT, "prompt_tuning_init_method": None, "prompt_tuning_init_source_model": "auto"}
    told = client.wait(client.tune("chosen", **{**chooses, "num_epochs": 12}))
    assert told.state == "COMPLETED", told.reasons
    assert any("the trial of source prompts chose" in line for line in told.reasons)
    verdict = json.loads((server.models / "chosen" / "verdict.json").read_text())
    starts = verdict["sources"]["starts"]
    assert {one["source"] for one in starts} >= {"mine/2", "flat", ""}
    assert {one["task_name"] for one in starts if one["source"] == "mine/2"} == {"", "mood", "urgency"}
    assert len([one for one in starts if one["kept"]]) == 1
    assert client.generate("chosen", "The lamp is great")
    with pytest.raises(ServerError, match="chooses the task"):
        client.tune("x", **chooses, prompt_tuning_init_task="mood")


def test_python_names_a_task_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "caikit_pt.settings.current",
        lambda: Settings(base_models_dir=str(BASE_MODELS), source_prompt_base=str(root)),
    )
    plan = PeftPromptTuning.plan(
        base_model=LLAMA,
        train_stream=RECORDS,
        tuning_type="MULTITASK_PROMPT_TUNING",
        tuning_config=TuningConfig(
            prompt_tuning_init_method="EXACT_SOURCE_TASK",
            prompt_tuning_init_task="urgency",
            num_virtual_tokens=4,
        ),
    )
    assert plan.parameters.prompt_tuning_init_task == 1
    assert plan.parameters.origins["prompt_tuning_init_task"] == "a task of the source prompt mine/2"
    assert plan.parameters.prompt_tuning_init_source_model == "mine/2"


# ---- the command line ----


@pytest.mark.parametrize("task", ["urgency", "1"])
def test_a_task_at_the_command_line(
    server: Server, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join(map(json.dumps, RECORDS)))
    command = ["check", "x", f"--base-model={LLAMA}", f"--train={train}", f"--server=localhost:{server.port}"]
    command += ["--tuning-type=MULTITASK_PROMPT_TUNING", "--prompt-tuning-init-method=EXACT_SOURCE_TASK"]
    assert main([*command, f"--prompt-tuning-init-task={task}"]) == 0
    capsys.readouterr()
    assert main([*command, f"--prompt-tuning-init-task={task}x"]) == 1
    assert "of mine/2: mood, urgency" in capsys.readouterr().err


Asked = Callable[..., tuple[str, str]]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """What a command prints and tells, with a root in its settings."""

    def ask(root: Path | str, *arguments: str, code: int = 0) -> tuple[str, str]:
        now = Settings(base_models_dir=str(BASE_MODELS), source_prompt_base=str(root))
        monkeypatch.setattr("caikit_pt.settings.current", lambda: now)
        try:
            ended = main(["sources", *arguments])
        except SystemExit as error:
            ended = int(error.code or 0)
        out, told = capsys.readouterr()
        assert ended == code, told
        return out, told

    return ask


def test_list_and_show(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"--server=localhost:{server.port}"
    assert main(["sources", "list", address]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["SOURCE", "BASE", "MODEL", "TOKENS", "CREATED", "TASKS"]
    assert [row.split()[0] for row in rows] == LISTED
    assert rows[4].endswith("mood, urgency  default")
    assert "manifest.json: it is no JSON" in rows[-1]
    assert main(["sources", "list", address, "--json", f"--base-model={T5}"]) == 0
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (told["name"], told["num_transformer_submodules"]) == ("group/both/1", 2)
    assert main(["sources", "show", "mine/1", address]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mine/1  default\n")
    assert "recipe: updates             250\n" in shown
    assert "Mood? {{input}}" in shown
    assert "accuracy 0.875, loss 0.25" in shown
    assert main(["sources", "show", "mine", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["recipe"] == {**RECIPE, "layers": [1, 2]}
    assert main(["sources", "show", "nothing", address]) == 1
    assert "INVALID_ARGUMENT: name: 'nothing'" in capsys.readouterr().err


def test_verify(root: Path, sources: Asked) -> None:
    assert sources(root, "verify", "mine")[0] == "mine/2 is whole\n"
    assert sources(root, "verify", str(root / "mine" / "1"))[0] == "1 is whole\n"
    out, _ = sources(root, "verify", "mine/1", f"--base-model={LLAMA}")
    assert out == "mine/1 is whole, and for tiny-llama\n"
    out, told = sources(root, "verify", "damaged", code=1)
    assert (out, told.startswith("damaged: sha256 of its adapter_model.safetensors is")) == ("", True)
    out, told = sources(root, "verify", "mine", f"--base-model={T5}", "--json", code=1)
    assert json.loads(out)["problem"].startswith("this one is for tiny-llama sha256:")
    for name in ("nothing", "../nowhere", "x" * 5000):
        assert sources(root, "verify", name, code=2)[1].startswith("caikit-pt: source: ")
    assert "SOURCE_PROMPT_BASE" in sources("", "verify", "nothing", code=2)[1]


def test_publish(root: Path, sources: Asked, tmp_path: Path, llama: BaseModel) -> None:
    own = tmp_path / "own"
    own.mkdir()
    np.save(tmp_path / "prompt.npy", drawn(llama.checkpoint).shared.numpy())
    given = str(tmp_path / "prompt.npy")
    base = f"--base-model={LLAMA}"
    assert sources(own, "publish", given, "a/numpy", base)[0] == "a/numpy/1\n"
    told = json.loads(sources(own, "publish", given, "a/numpy", base, "--default", "--json")[0])
    assert (told["name"], told["default"], told["num_virtual_tokens"]) == ("a/numpy/2", True, 5)
    tasks = ["--task=first", "--task=zweite ä"]
    assert sources(own, "publish", str(root / "flat.safetensors"), "flat", base, *tasks)[0] == "flat/1\n"
    assert SourceLibrary(own).read("flat").tasks == ("first", "zweite ä")
    assert sources(own, "publish", str(root / "mine"), "copy", base)[0] == "copy/1\n"
    manifest = SourceLibrary(own).read("copy").manifest
    assert manifest is not None
    assert manifest.tasks == TASKS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["nothing", "x", f"--base-model={LLAMA}"],
            "nothing can't be published. Expected: a file, or a directory",
        ),
        (["{root}/damaged/1", "x", f"--base-model={LLAMA}"], "sha256 of its adapter_model.safetensors"),
        (["{root}/flat.safetensors", "../x", f"--base-model={LLAMA}"], "name: '../x'"),
        (["{root}/flat.safetensors", "x/2", f"--base-model={LLAMA}"], "name: 'x/2'"),
        (["{root}/flat.safetensors", "x", "--base-model=nothing"], "base_model: 'nothing'"),
        (["{root}/flat.safetensors", "x", f"--base-model={LLAMA}", "--task=a"], "1 are named"),
        (
            ["{root}/flat.safetensors", "x", f"--base-model={LLAMA}", "--submodules=2"],
            "one side, as tiny-llama",
        ),
        (["{root}/mine/1", "x", f"--base-model={T5}"], "this one is for tiny-llama"),
        (["{root}/flat.safetensors", "x"], "--base-model"),
    ],
)
def test_what_cannot_be_published(
    root: Path, sources: Asked, arguments: list[str], told: str, tmp_path: Path
) -> None:
    given = [argument.replace("{root}", str(root)) for argument in arguments]
    out, error = sources(tmp_path, "publish", *given, code=2)
    assert out == ""
    assert told in error
    assert not list(tmp_path.rglob("*.json"))


def test_the_settings_are_those_of_the_server(root: Path, tmp_path: Path) -> None:
    """From CONFIG_FILES and the environment, in a process of its own."""
    file = tmp_path / "settings.yml"
    file.write_text(json.dumps({"source_prompt_base": str(root), "base_models_dir": "elsewhere"}))
    told = {"CONFIG_FILES": str(file), "BASE_MODELS_DIR": str(BASE_MODELS)}
    command = [sys.executable, "-m", "caikit_pt.cli", "sources", "verify", "mine", f"--base-model={LLAMA}"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in {**os.environ, **told}.items() if name != "SOURCE_PROMPT_BASE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "mine/2 is whole, and for tiny-llama\n"
