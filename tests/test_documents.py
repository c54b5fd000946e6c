"""What CONTRIBUTING and the drawing of the house name is there. (README has tests of its own.)"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from examples.local_server import ROOT

PACKAGE = ROOT / "caikit_pt"
# A path is written as one sees it from one of these.
FROM = (ROOT, PACKAGE, PACKAGE / "base_model")
DRAWING = "docs/architecture.md"
GUIDES = ("CONTRIBUTING.md", DRAWING)
documents = pytest.mark.parametrize("document", GUIDES)


def text_of(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


@cache
def words_of_the_package() -> frozenset[str]:
    """Every word in the code and the settings, and the names of files."""
    files = [*PACKAGE.rglob("*.py"), PACKAGE / "config.yml"]
    words = {word for file in files for word in re.findall(r"\w+", file.read_text("utf-8"))}
    return frozenset(words | {file.stem for file in files})


def targets() -> set[str]:
    names = re.findall(r"^([a-z -]+):", text_of("Makefile"), re.MULTILINE)
    return {name for line in names for name in line.split()}


@documents
def test_targets_of_make_are_there(document: str) -> None:
    named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text_of(document), re.MULTILINE))
    assert named
    assert named <= targets()


def test_every_long_suite_is_told_of() -> None:
    """By what it proves."""
    told = set(re.findall(r"^\| `make ([a-z-]+)` \| \w", text_of("CONTRIBUTING.md"), re.MULTILINE))
    others = {"check", "clean", "docs", "help", "install", "models", "protos", "serve", "test", "web"}
    parts = {"versions-newest", "versions-oldest"}
    assert told == targets() - others - parts


@documents
def test_paths_are_there(document: str) -> None:
    """In code or in prose: whatever has a slash or a file's ending."""
    text = re.sub(r"\]\(http[^)]*\)|^ {4}.*$", "", text_of(document), flags=re.MULTILINE)
    spans = re.findall(r"`([^`\s]+)`", text)
    code = {span for span in spans if "/" in span or re.search(r"\.(py|md|yml|sh|toml)$", span)}
    prose = set(re.findall(r"(?<![\w`/(.<])(?:tests|docs|bench|examples|protos|caikit_pt)/[\w./]*\w", text))
    assert code | prose
    missing = {path for path in code | prose if not any((place / path).exists() for place in FROM)}
    assert not missing


@documents
def test_links_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text_of(document)):
        assert ((ROOT / document).parent / link).exists(), link


@documents
def test_commands_name_files_that_are_there(document: str) -> None:
    for path in re.findall(r"^ {4}.*?\b((?:tests|bench)/\S+\.py)", text_of(document), re.MULTILINE):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:tests|bench|examples)[\w.]*)", text_of(document)):
        place = ROOT / Path(*module.split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_names_in_the_drawing_are_in_the_code() -> None:
    spans = re.findall(r"`([A-Za-z_][\w.]*)`", text_of(DRAWING))
    names = {part for span in spans if not span.endswith((".py", ".md", ".yml")) for part in span.split(".")}
    assert len(names) > 50
    assert names <= words_of_the_package()
