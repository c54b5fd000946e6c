"""Words and numbers as pages have them."""

from __future__ import annotations

from caikit_pt.web.studio.shown import coded, duration
from tests.web.studio.standin import HOSTILE


def test_shown() -> None:
    """Names between backticks are code, and nothing is markup."""
    assert coded(f"`a` {HOSTILE}").startswith("<code>a</code> &lt;/title&gt;")
    assert coded("one ` alone") == "one ` alone"
    assert [duration(one) for one in (0.25, 59, 61, 3661, 90_000)] == [
        "0.2 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
