"""The code of README runs as it stands there."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from examples.grpc_client import Client
from examples.local_server import ROOT
from tests.perturbation import SEED
from tests.web.site import site
from tests.whole import WHOLE

README = (ROOT / "README.md").read_text("utf-8")
TRAIN = "examples/data/ticket_sentiment/train.jsonl"
SERVED, OPENAI, LOCAL = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_client_example(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SERVED.count("localhost:8085") == 1
    code = SERVED.replace("8085", str(client.port)).replace("num_epochs=12,", f"num_epochs=12, seed={SEED},")
    assert f"seed={SEED}" in code
    exec(compile(code, "README.md", "exec"), {})
    *events, negative, positive = capsys.readouterr().out.splitlines()
    assert "QUEUED" in events
    assert "COMPLETED" in events[-1]
    assert any(re.match(r"update \d+ of \d+, epoch 12, loss 0\.\d+, ", event) for event in events)
    assert (negative, positive) == ("negative", "positive")


def test_the_example_of_openais_client(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with site(f"localhost:{client.port}", directory=str(tmp_path / "web")) as address:
        code = OPENAI.replace("http://localhost:8087", address)
        if not WHOLE:
            lines = (ROOT / TRAIN).read_text("utf-8").splitlines(keepends=True)
            (tmp_path / "few.jsonl").write_text("".join(lines[:60]), "utf-8")
            code = code.replace(TRAIN, str(tmp_path / "few.jsonl"))
        exec(compile(code, "README.md", "exec"), {})
    answers = ("negative",) if WHOLE else ("negative", "positive")
    assert capsys.readouterr().out.strip() in answers


def test_the_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copytree(ROOT / "examples" / "base_models", tmp_path / "examples" / "base_models")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(LOCAL, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip() in ("good", "bad")
    assert {file.name for file in (tmp_path / "models" / "on-my-own").iterdir()} >= {"config.yml"}


def test_the_commands_of_readme_are_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "serve"} <= named <= targets


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_document_is_in_the_index() -> None:
    index = README.partition("\n## Documents\n")[2].partition("\n## ")[0]
    assert {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")} == set(
        re.findall(r"\]\((docs/\w+\.md)\)", index)
    )


def test_the_docker_line_fits_the_image() -> None:
    """What it mounts are volumes of the image, and what it publishes and sets is known there."""
    image = (ROOT / "Dockerfile").read_text("utf-8")
    (line,) = re.findall(r"^    (docker run .*) caikit-pt$", README, re.MULTILINE)
    places = re.findall(r"-v \S+?:(/\S+?)(?::ro)?(?= |$)", line)
    assert len(places) == 3
    assert all(f'"{place}"' in image for place in places)
    assert "8085" in re.findall(r"^EXPOSE (.*)$", image, re.MULTILINE)[0].split()


def test_the_image_installs_extras_that_there_are() -> None:
    """By default and in its example; and torch from the index that is named, so that CUDA can be left out."""
    image = (ROOT / "Dockerfile").read_text("utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"EXTRAS=([\w,]+)", image)
    assert len(named) == 2
    assert {extra for names in named for extra in names.split(",")} <= extras.keys()
    (installed,) = re.findall(r"pip install [^&]*\[\$EXTRAS\]", image)
    assert '${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}' in installed
