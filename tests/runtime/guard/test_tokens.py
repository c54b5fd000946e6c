"""Tokens in a file by their hashes, and what becomes of them when the file changes."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime.guard.tokens import Tokens


def line(token: str, principal: str) -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()}: {principal}\n"


def test_who_has_which_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = ["# people\n", "\n", line("one", "ada"), line("two", "ada"), line("three", "team a")]
    file.write_text("".join(lines))
    tokens = Tokens(file)
    assert [tokens.principal(token) for token in ("one", "two", "three", "four", "")] == [
        *("ada", "ada", "team a"),
        *(None, None),
    ]


def test_a_file_that_changes_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(line("one", "ada"))
    tokens = Tokens(file)
    assert tokens.principal("one") == "ada"
    new = tmp_path / "new"
    new.write_text(line("two", "ada"))
    os.replace(new, file)
    assert (tokens.principal("one"), tokens.principal("two")) == (None, "ada")
    file.write_text("")
    assert tokens.principal("two") is None


@pytest.mark.parametrize("content", ["secret: ada\n", "x\n", f"{'0' * 64}: \x07\n", f"{'0' * 64}:\n"])
def test_a_file_that_makes_no_sense(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the start it is refused; later what was there before still counts, and the log says so."""
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(InvalidParameter, match=r"access\.tokens_file: 'line 1'") as error:
        Tokens(file)
    assert "secret" not in str(error.value)
    file.write_text(line("one", "ada"))
    tokens = Tokens(file)
    file.write_text(f"# longer\n{content}")
    with caplog.at_level(logging.WARNING):
        assert tokens.principal("one") == "ada"
    assert "tokens changed, and can't be used" in caplog.text
    assert "line 2" in caplog.text
    assert "secret" not in caplog.text
    file.unlink()
    assert tokens.principal("one") == "ada"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="that this server may read"):
        Tokens(tmp_path / "nothing")
