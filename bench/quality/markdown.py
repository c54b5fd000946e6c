"""Tables as Markdown has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NOTHING = "-"


def opening(introduction: str, reasons: Path, command: str, told: str) -> list[str]:
    """What a page begins with: what is compared, reasons written by hand, how to print it."""
    by_hand = [reasons.read_text("utf-8")] if reasons.exists() else []
    return [introduction, *by_hand, f"    {command}", "", told]


def head(*cells: str) -> list[str]:
    """The two lines above the others."""
    return [line(cells), line(["---"] * len(cells))]


def line(cells: Sequence[str]) -> str:
    """One row."""
    return f"| {' | '.join(cells)} |"


def cell(value: object) -> str:
    """What there is, or that there is nothing."""
    return NOTHING if value is None else str(value)
