"""Tables in a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence


def cell(text: str) -> str:
    """`text` on one line; as JSON where it has line breaks, outer blanks, or what a terminal would obey."""
    if text.isprintable():
        return text if text == text.strip() else json.dumps(text, ensure_ascii=False)
    return json.dumps(text)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, its cells one below the other."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
