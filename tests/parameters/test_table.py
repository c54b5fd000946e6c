"""One row of a table: what it lets through, what it refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import Parameter, ParameterTable

COUNT = Parameter("count", int, "", low=1, high=10_000)
RATE = Parameter("rate", float, "", low=0, high=10, above_low=True)
WORD = Parameter("word", str, "", choices=("A", "B"), path="config")
FLAG = Parameter("flag", bool, "")
WORDS = Parameter("words", str, "", choices=("A", "B"), many=True)


@pytest.mark.parametrize(
    ("parameter", "value", "kept"),
    [
        (COUNT, 1, 1),
        (COUNT, 10_000, 10_000),
        (RATE, 10, 10.0),
        (RATE, 1e-9, 1e-9),
        (WORD, "A", "A"),
        (FLAG, False, False),
        (WORDS, ["B", "A"], ("B", "A")),
        (WORDS, [], ()),
    ],
)
def test_what_is_allowed_passes(parameter: Parameter, value: Any, kept: Any) -> None:
    checked = parameter.check(value)
    assert checked == kept
    assert type(checked) is type(kept)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (COUNT, 0),
        (COUNT, 10_001),
        (COUNT, 1.5),
        (COUNT, True),
        (COUNT, "3"),
        (RATE, 0),
        (RATE, 10.1),
        (RATE, float("nan")),
        (RATE, float("inf")),
        (RATE, "1"),
        (WORD, "a"),
        (WORD, 3),
        (FLAG, 1),
        (WORDS, "A"),
        (WORDS, ["C"]),
        (WORDS, 3),
    ],
)
def test_what_is_not_allowed_is_refused(parameter: Parameter, value: Any) -> None:
    with pytest.raises(InvalidParameter) as error:
        parameter.check(value)
    assert error.value.field == parameter.field


def test_the_text_names_field_value_and_what_is_allowed() -> None:
    with pytest.raises(InvalidParameter) as error:
        WORD.check("C")
    assert str(error.value) == "config.word: 'C' is not allowed. Allowed: A, B"
    assert COUNT.allowed() == "a whole number from 1 to 10,000"
    assert RATE.allowed() == "a number above 0 and up to 10"


def test_a_long_value_is_cut_in_the_text() -> None:
    with pytest.raises(InvalidParameter) as error:
        WORD.check("x" * 10_000)
    assert len(str(error.value)) < 200


def test_limits_narrow_and_never_widen() -> None:
    assert COUNT.check(16, {"count": (1, 16)}) == 16
    with pytest.raises(InvalidParameter, match="from 1 to 16"):
        COUNT.check(17, {"count": (1, 16)})
    with pytest.raises(InvalidParameter, match="from 1 to 10,000"):
        COUNT.check(0, {"count": (-5, 1e9)})


def test_a_table_refuses_names_that_it_lacks_and_skips_what_is_unset() -> None:
    table = ParameterTable(COUNT, RATE)
    assert table.check({"count": 3, "rate": None}) == {"count": 3}
    with pytest.raises(InvalidParameter, match="count, rate"):
        table.check({"cuont": 3})
