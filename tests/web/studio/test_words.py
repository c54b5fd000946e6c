"""The verdict in words."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt.web.studio.shown import coded, duration
from caikit_pt.web.studio.tables import in_words
from tests.web.studio.standin import HOSTILE, estimate


def verdict(name: str, tuned: Any, untuned: Any) -> dict[str, Any]:
    return {"validation": {"tuned": {name: tuned}, "untuned": {name: untuned}}}


@pytest.mark.parametrize(
    ("told", "begins"),
    [
        (verdict("accuracy", estimate(0.9, 0.8, 1), estimate(0.4, 0.3, 0.5)), "Clearly better"),
        (verdict("accuracy", estimate(0.4, 0.3, 0.5), estimate(0.9, 0.8, 1)), "Clearly worse"),
        (verdict("loss", estimate(0.4, 0.3, 0.5), estimate(0.9, 0.8, 1)), "Clearly better"),
        (verdict("loss", estimate(0.9, 0.8, 1), estimate(0.4, 0.3, 0.5)), "Clearly worse"),
        (verdict("accuracy", estimate(0.6, 0.3, 0.9), estimate(0.5, 0.2, 0.8)), "Better than the untuned"),
        (verdict("accuracy", estimate(0.5, 0.2, 0.8), estimate(0.5, 0.2, 0.8)), "Not better"),
        (verdict("loss", {"value": 1.0, "low": None, "high": None}, estimate(1, 0, 2)), "So few"),
        ({}, ""),
    ],
)
def test_in_words(told: dict[str, Any], begins: str) -> None:
    """As sure as the intervals are."""
    assert in_words(told).startswith(begins)
    assert bool(in_words(told)) == bool(begins)


def test_shown() -> None:
    """Names between backticks are code, and nothing is markup."""
    assert coded(f"`a` {HOSTILE}").startswith("<code>a</code> &lt;/title&gt;")
    assert coded("one ` alone") == "one ` alone"
    assert [duration(one) for one in (0.25, 59, 61, 3661, 90_000)] == [
        "0.2 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
