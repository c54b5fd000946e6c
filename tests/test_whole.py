"""What `make test` leaves out is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.whole import ELSEWHERE, KEPT, unknown

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", ELSEWHERE)
def test_a_file_of_the_table_is_there(file: str) -> None:
    assert (HERE / file).exists()


@pytest.mark.parametrize("name", KEPT)
def test_a_test_of_the_table_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    assert re.search(rf"^(def {function}\(|    {function},$)", (HERE / file).read_text("utf-8"), re.MULTILINE)


def test_parameters_that_are_not_there_are_told_of(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item for item in request.session.items if "test_a_test_of_the_table_is_there" in item.nodeid]
    name = "test_whole.py::test_a_test_of_the_table_is_there"
    monkeypatch.setitem(KEPT, name, (next(iter(KEPT)), "nowhere"))
    assert unknown(items) == [f"{name}[nowhere]"]
