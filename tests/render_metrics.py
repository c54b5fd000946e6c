"""Renders the table of docs/observability.md from the metrics: `python -m tests.render_metrics FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from caikit_pt.runtime.metrics import MEASURES

BEGIN, END = "<!-- metrics -->\n", "<!-- end of metrics -->\n"


def table() -> str:
    """A row for each metric, by the name that an expression has."""
    rows = [f"| `{one.exposed}` | {one.kind} | {', '.join(one.labels)} | {one.text} |" for one in MEASURES]
    return "\n".join(["| metric | | labels | |", "| --- | --- | --- | --- |", *rows, ""])


def rendered(text: str) -> str:
    """A page with its table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(rendered(page.read_text("utf-8")), "utf-8")
