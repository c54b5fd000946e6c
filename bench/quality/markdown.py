"""Tables as Markdown has them."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "-"


def head(*cells: str) -> list[str]:
    """The two lines above the others."""
    return [line(cells), line(["---"] * len(cells))]


def line(cells: Sequence[str]) -> str:
    """One row."""
    return f"| {' | '.join(cells)} |"


def cell(value: object) -> str:
    """What there is, or that there is nothing."""
    return NOTHING if value is None else str(value)
