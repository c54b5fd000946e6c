"""Records as tables: a header, and a record a row."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NoReturn

from caikit_pt.errors import InvalidRecord, excerpt
from caikit_pt.tuning.record_fields import PAIRS
from caikit_pt.tuning.record_text import LONGEST, Position, Row, Text

_DELIMITERS = ",;\t|"
_SHOWN = 5  # lines
# The first line that Excel reads and other programs write for it.
_SAYS_DELIMITER = re.compile(r'"?sep=([,;|\t])"?')


def of_table(text: Text) -> Iterator[Row]:
    """The rows behind the header. Raises InvalidRecord."""
    lines = text.lines()
    blank = 0
    for header in lines:
        if header.strip():
            break
        blank += 1
    else:
        return
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    said = _SAYS_DELIMITER.fullmatch(header.strip())
    if said:
        blank += 1
        header = next(lines, "")
    delimiter = said[1] if said else _delimiter(header, Position(text.name, blank + 1))
    row: list[str] = []

    def remembered() -> Iterator[str]:
        for line in chain([header], lines):
            if not row:
                row.append(line)
            yield line

    table = csv.reader(remembered(), delimiter=delimiter, strict=True)
    names: list[str] = []
    ragged, count = list[tuple[list[str], Position]](), 0
    while True:
        row.clear()
        at = Position(text.name, blank + table.line_num + 1)
        try:
            cells = next(table, None)
        except csv.Error as error:
            before = _before_bad_quote(row[0], delimiter)
            at.behind(before).refuse(
                f"{excerpt(row[0][len(before) :].rstrip())}, which isn't CSV ({error})",
                "a cell with a delimiter, a quote or a line break in double quotes, and quotes in it twice",
            )
        if cells is None:
            break
        if not names:
            names = header_of(cells, at)
        elif any(cell.strip() for cell in cells):
            if len(cells) != len(names):
                count += 1
                ragged = ragged if count > _SHOWN else [*ragged, (cells, at)]
            # Behind one all others are looked for: who mends a table wants to know of each.
            if not ragged:
                yield _table_row(names, cells, at, blank + 1)
    if ragged:
        _refuse_ragged(names, ragged, count)


def _delimiter(header: str, at: Position) -> str:
    """What parts the names of the header; where several may, the one that gives names that are known."""
    found = {one: next(csv.reader([header], delimiter=one)) for one in _DELIMITERS if one in header}
    if "\t" in found and ".tsv" in at.name.lower():
        return "\t"
    if len(found) > 1:
        known = [{name.strip().casefold() for name in names} for names in found.values()]
        sure = [any(names.issuperset(pair) for pair in PAIRS) for names in known]
        found = {one: names for (one, names), good in zip(found.items(), sure, strict=True) if good}
    if len(found) != 1:
        at.refuse(
            excerpt(header.strip()),
            'a header of two names or more, with one of ",", ";", "|" and tab in between',
        )
    return next(iter(found))


def _before_bad_quote(line: str, delimiter: str) -> str:
    """What stands in front of a quote that doesn't end a cell, or of a cell in quotes that doesn't end."""
    for cell in re.finditer(rf'(?:^|{re.escape(delimiter)})("(?:[^"]|"")*)("?)', line):
        if not cell[2]:
            return line[: cell.start(1)]
        if line[cell.end() : cell.end() + 1] not in {delimiter, "\n", ""}:
            return line[: cell.start(2)]
    return ""


def _refuse_ragged(names: list[str], ragged: Sequence[tuple[list[str], Position]], count: int) -> NoReturn:
    """The first of `count` rows that have more or fewer cells than the header, and where others are."""
    (cells, at), *others = ragged
    number = min(len(cells), len(names)) + 1
    found = excerpt(cells[number - 1]) if len(cells) > len(names) else "no cell"
    lines = ", ".join(str(position.line) for _, position in others) + ", …" * (count > len(ragged))
    more = f"; {count - 1} more rows are like it, in line {lines}" if others else ""
    raise InvalidRecord(
        "file",
        f"{at.name}, line {at.line}, column {number}: {found}{more}",
        f"{len(names)} cells, as the header has; one with the delimiter in it stands in double quotes",
    )


def _table_row(names: list[str], cells: list[str], at: Position, header: int) -> Row:
    def place(name: str | None) -> str:
        if name is None:
            return f"{at.name}, line {header}, column 1"
        return f"{at.name}, line {at.line}, column {names.index(name) + 1} ({name})"

    return Row({name: cell for name, cell in zip(names, cells, strict=True) if name}, place)


def header_of(cells: list[str], at: Position) -> list[str]:
    """The names of the columns. Raises InvalidRecord where one is there twice."""
    names = [cell.strip() for cell in cells]
    for number, name in enumerate(names):
        if name and name in names[:number]:
            raise InvalidRecord(
                "file", f"{at.name}, line {at.line}, column {number + 1}: {excerpt(name)}", "each name once"
            )
    return names
