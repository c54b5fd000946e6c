"""How far answers have come, in a pipe. On a terminal: test_command_line.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from caikit_pt.progress_bar import AnswersBar


def test_a_line_every_few_seconds_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("caikit_pt.progress_bar.time", SimpleNamespace(monotonic=lambda: now))
    with AnswersBar(done=10, of=40) as bar:
        for done, seconds in ((11, 1.0), (20, 5.0), (21, 6.0), (40, 15.0)):
            now = 100.0 + seconds
            bar.show(done, 40)
        bar.clear()
    assert capsys.readouterr().err.splitlines() == [
        "20 of 40 answers, 2/s, about 10 s to go",
        "40 of 40 answers, 2/s, about 0 s to go",
    ]


def test_a_line_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    AnswersBar().show(2, 2, "2 of 2, 1 s")
    assert capsys.readouterr().err == "2 of 2, 1 s\n"
