"""Files of records, as people have them: rows, one at a time, each with its place in the file.

Knows formats and encodings; which fields matter is for `record_fields`. A file is never in memory whole.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from caikit_pt.errors import InvalidRecord, excerpt
from caikit_pt.tuning.record_fields import PAIRS, OfType

_GZIP, _PARQUET = ".gz", ".parquet"
_TEXTS = (".jsonl", ".json", ".csv", ".tsv")
ENDINGS = (*_TEXTS, *(kind + _GZIP for kind in _TEXTS), _PARQUET)
_PIECE = 2**16  # bytes
_LONGEST = 2**26  # characters of one record
_ROWS = 256  # of a parquet file at a time
_DELIMITERS = ",;\t|"
_BEFORE = 20  # characters
# The longer ones first: one begins like another.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_IN_UTF8 = "text in UTF-8, or in UTF-16 with a byte order mark"
_RECORD = '{"input": TEXT, "output": TEXT}'


@dataclass(frozen=True, slots=True)
class Row:
    """A record as a file has it. `place` tells file, line and column of one of its fields, and of what
    names them for None."""

    fields: Mapping[str, Any]
    place: Callable[[str | None], str]


def is_record_file(name: str) -> bool:
    """Whether it is read at all, by its ending in whatever case."""
    return name.lower().endswith(ENDINGS)


def rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of the file at `path`, which a user knows as `name`.

    Raises InvalidRecord with file, line, column, what stands there and what was expected.
    """
    kind = name.lower()
    if not is_record_file(name):
        raise InvalidRecord("file", name, f"a file whose name ends in {', '.join(ENDINGS)}")
    opened = gzip.open if kind.endswith(_GZIP) else open
    try:
        with opened(path, "rb") as file:
            if kind.endswith(_PARQUET):
                yield from _of_parquet(file, name)
            else:
                yield from _READERS[Path(kind.removesuffix(_GZIP)).suffix](_Text(file, name))
    except OSError as error:
        raise InvalidRecord(
            "file", f"{name}: a file that can't be read ({error.strerror})", "a readable file"
        ) from error


@dataclass(slots=True)
class _Text:
    """The text of a file in pieces, line ends as `\\n`."""

    file: io.BufferedIOBase
    name: str

    def __iter__(self) -> Iterator[str]:
        at = _Position(self.name)
        start = self._read(at)
        encoding = next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
        piece = start
        while True:
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                _refuse_bytes(at, error)
            if "\0" in text:
                _refuse_nul(at, text)
            at = at.behind(text)
            yield text
            if not piece:
                return
            piece = self._read(at)

    def _read(self, at: _Position) -> bytes:
        try:
            return self.file.read(_PIECE)
        except gzip.BadGzipFile:
            at.refuse("what gunzip can't read", "a gzip file, or a name without .gz")
        except (EOFError, zlib.error):
            at.refuse("the end of what gunzip can read", "a whole gzip file")

    def lines(self) -> Iterator[str]:
        """Its lines, each with its end."""
        held: list[str] = []
        size = number = 0
        for piece in self:
            *whole, rest = piece.split("\n")
            for part in whole:
                number += 1
                yield "".join((*held, part, "\n"))
                held, size = [], 0
            held.append(rest)
            size += len(rest)
            if size > _LONGEST:
                _Position(self.name, number + 1).refuse(excerpt(held[0]), _NOT_LONGER)
        if size:
            yield "".join(held)


_NOT_LONGER = f"a record of at most {_LONGEST:,} characters"


@dataclass(frozen=True, slots=True)
class _Position:
    """Where something stands in a file, from 1 on."""

    name: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}, column {self.column}"

    def behind(self, text: str) -> _Position:
        """Where what follows `text` stands."""
        lines = text.count("\n")
        if not lines:
            return _Position(self.name, self.line, self.column + len(text))
        return _Position(self.name, self.line + lines, len(text) - text.rindex("\n"))

    def refuse(self, found: str, expected: str) -> NoReturn:
        """Raises InvalidRecord."""
        raise InvalidRecord("file", f"{self}: {found}", expected) from None


def _refuse_nul(at: _Position, text: str) -> NoReturn:
    at.behind(text[: text.index("\0")]).refuse(
        "a NUL", f"{_IN_UTF8}, without NUL characters; UTF-16 without its mark looks like this"
    )


def _refuse_bytes(at: _Position, error: UnicodeDecodeError) -> NoReturn:
    before = error.object[: error.start].decode(error.encoding, "ignore")
    before = before.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in before:
        _refuse_nul(at, before)
    found = f"byte 0x{error.object[error.start]:02X}"
    line = before[before.rfind("\n") + 1 :]
    if line:
        found += f" behind {excerpt(line[-_BEFORE:])}"
    at.behind(before).refuse(
        found, f"{_IN_UTF8}; a file in Windows-1252 becomes one by iconv -f WINDOWS-1252 -t UTF-8"
    )


# ---- JSON ----


class _Object(dict[str, Any]):
    """A JSON object that knows of a key that it has `twice`."""

    twice: str | None = None


def _object(pairs: Sequence[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        made.twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return made


_JSON = json.JSONDecoder(object_pairs_hook=_object)
_BLANKS = re.compile(r"[ \t\n\r]*")


def _of_json_lines(text: _Text) -> Iterator[Row]:
    for number, line in enumerate(text.lines(), start=1):
        start = _behind_blanks(line, 0)
        if start == len(line):
            continue
        at = _Position(text.name, number, start + 1)
        record = line[start:].rstrip("\n")
        try:
            value, end = _JSON.raw_decode(record)
        except (ValueError, RecursionError) as error:
            _refuse_json(at, record, error, f"{_RECORD}, a record a line in a .jsonl file")
        row = _json_row(at, record, value, "a record a line; an array of records belongs into a .json file")
        end = _behind_blanks(record, end)
        if end < len(record):
            at.behind(record[:end]).refuse(excerpt(record[end:]), "the end of the line: a record a line")
        yield row


def _of_json(text: _Text) -> Iterator[Row]:
    window = _Window(text)
    if window.peek() != "[":
        window.refuse("[, an array of records; a record a line belongs into a .jsonl file")
    window.take()
    separator = "," if window.peek() != "]" else "]"
    if separator == "]":
        window.take()
    while separator == ",":
        at, record, value = window.value()
        yield _json_row(at, record, value, f"{_RECORD}, a record of the array")
        separator = window.peek()
        if separator not in {",", "]"}:
            window.refuse(", or ] behind a record of the array")
        window.take()
    if window.peek():
        window.refuse("nothing behind the array")


class _Window:
    """The part of a JSON text that is looked at: what is behind it is dropped, so that it stays small.

    ijson would read as little, but it doesn't tell where a value stands.
    """

    def __init__(self, text: _Text) -> None:
        self._pieces = iter(text)
        self._text, self._at = "", 0
        self._told, self._told_at = _Position(text.name), 0

    def _position(self) -> _Position:
        """Where the next character stands; counted on from where it was last asked for."""
        self._told = self._told.behind(self._text[self._told_at : self._at])
        self._told_at = self._at
        return self._told

    def peek(self) -> str:
        """The next character that isn't blank; empty at the end."""
        while True:
            self._at = _behind_blanks(self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self) -> None:
        """Goes behind the next character."""
        self._at += 1

    def value(self) -> tuple[_Position, str, Any]:
        """Goes behind the next value: where it begins, its text, and what it is."""
        self.peek()
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not (_breaks_off(error, len(self._text)) and self._more()):
                    rest = self._text[self._at :]
                    _refuse_json(self._position(), rest, _shifted(error, rest), f"{_RECORD} in an array")
            else:
                position, record = self._position(), self._text[self._at : end]
                self._at = end
                return position, record, value

    def refuse(self, expected: str) -> NoReturn:
        """Raises InvalidRecord for what stands here."""
        self._position().refuse(excerpt(self._text[self._at :]) if self.peek() else "the end", expected)

    def _more(self) -> bool:
        """Widens the window, to twice its size where a value is longer; False at the end of the file."""
        at = self._position()
        parts = [self._text[self._at :]]
        self._at = self._told_at = 0
        wanted, size = 2 * len(parts[0]), len(parts[0])
        if size > _LONGEST:
            at.refuse(excerpt(parts[0]), _NOT_LONGER)
        for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if piece and size >= wanted:
                break
        self._text = "".join(parts)
        return size > len(parts[0])


def _behind_blanks(text: str, start: int) -> int:
    found = _BLANKS.match(text, start)
    assert found is not None
    return found.end()


def _breaks_off(error: Exception, end: int) -> bool:
    """Whether the text of a value may only be cut."""
    longest = len("-Infinity\\u00000")
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos >= end - longest
    )


def _shifted(error: Exception, rest: str) -> Exception:
    if not isinstance(error, json.JSONDecodeError):
        return error
    return json.JSONDecodeError(error.msg, rest, error.pos - (len(error.doc) - len(rest)))


def _refuse_json(at: _Position, text: str, error: Exception, expected: str) -> NoReturn:
    if not isinstance(error, json.JSONDecodeError):
        at.refuse(f"{excerpt(text)}, a number of too many digits or too deep a nesting", expected)
    found = excerpt(text[error.pos :]) if error.pos < len(text) else "the end"
    at.behind(text[: error.pos]).refuse(f"{found}, which isn't JSON ({error.msg})", expected)


def _json_row(at: _Position, text: str, value: Any, expected: str) -> Row:
    if not isinstance(value, _Object):
        at.refuse(excerpt(text), expected)
    if value.twice is not None:
        _place_in_json(at, text, value.twice).refuse(
            f"the key {excerpt(value.twice)} for the second time", "each key once"
        )

    def place(name: str | None) -> str:
        return str(at) if name is None else f"{_place_in_json(at, text, name)} ({name})"

    return Row(value, place)


def _place_in_json(at: _Position, text: str, name: str) -> _Position:
    """Where the value of a field begins, the last where there are several. `text` is that of an object."""
    found, end = 0, 1
    while True:
        start = _behind_blanks(text, end)
        if text[start] == "}":
            return at.behind(text[:found])
        key, end = _JSON.raw_decode(text, start)
        begin = _behind_blanks(text, _behind_blanks(text, end) + 1)
        found = begin if key == name else found
        _, end = _JSON.raw_decode(text, begin)
        end = _behind_blanks(text, end)
        end += text[end] == ","


# ---- tables ----


# The first line that Excel reads and other programs write for it.
_SAYS_DELIMITER = re.compile(r'"?sep=([,;|\t])"?')


def _of_table(text: _Text) -> Iterator[Row]:
    lines = text.lines()
    blank = 0
    for header in lines:
        if header.strip():
            break
        blank += 1
    else:
        return
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    said = _SAYS_DELIMITER.fullmatch(header.strip())
    if said:
        blank += 1
        header = next(lines, "")
    delimiter = said[1] if said else _delimiter(header, _Position(text.name, blank + 1))
    row: list[str] = []

    def remembered() -> Iterator[str]:
        for line in chain([header], lines):
            if not row:
                row.append(line)
            yield line

    table = csv.reader(remembered(), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        row.clear()
        at = _Position(text.name, blank + table.line_num + 1)
        try:
            cells = next(table, None)
        except csv.Error as error:
            before = _before_bad_quote(row[0], delimiter)
            at.behind(before).refuse(
                f"{excerpt(row[0][len(before) :].rstrip())}, which isn't CSV ({error})",
                "a cell with a delimiter, a quote or a line break in double quotes, and quotes in it twice",
            )
        if cells is None:
            return
        if not names:
            names = _header(cells, at)
        elif any(cell.strip() for cell in cells):
            yield _table_row(names, cells, at, blank + 1)


def _delimiter(header: str, at: _Position) -> str:
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


def _header(cells: list[str], at: _Position) -> list[str]:
    names = [cell.strip() for cell in cells]
    for number, name in enumerate(names):
        if name and name in names[:number]:
            raise InvalidRecord(
                "file", f"{at.name}, line {at.line}, column {number + 1}: {excerpt(name)}", "each name once"
            )
    return names


def _table_row(names: list[str], cells: list[str], at: _Position, header: int) -> Row:
    if len(cells) != len(names):
        number = min(len(cells), len(names)) + 1
        found = excerpt(cells[number - 1]) if len(cells) > len(names) else "no cell"
        raise InvalidRecord(
            "file",
            f"{at.name}, line {at.line}, column {number}: {found}",
            f"{len(names)} cells, as the header has; one with the delimiter in it stands in double quotes",
        )

    def place(name: str | None) -> str:
        if name is None:
            return f"{at.name}, line {header}, column 1"
        return f"{at.name}, line {at.line}, column {names.index(name) + 1} ({name})"

    return Row({name: cell for name, cell in zip(names, cells, strict=True) if name}, place)


_READERS = {".jsonl": _of_json_lines, ".json": _of_json, ".csv": _of_table, ".tsv": _of_table}


def _of_parquet(file: io.BufferedIOBase, name: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InvalidRecord(
            "file",
            f"{name}: a parquet file, where pyarrow isn't installed",
            f"parquet files with `pip install 'caikit-pt[parquet]'`; without it {', '.join(_TEXTS)}",
        ) from None
    number = 0
    try:
        with ParquetFile(file) as table:
            _header(table.schema_arrow.names, _Position(name))
            for batch in table.iter_batches(_ROWS):
                for fields in _in_python(batch):
                    number += 1
                    yield Row(fields, _place_in_parquet(name, number, list(fields)))
    except (ArrowException, UnicodeDecodeError):
        raise InvalidRecord("file", f"{name}, row {number + 1}: no parquet", "a whole parquet file") from None


def _in_python(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch. Of values that Python hasn't got, such as nanoseconds, only the type is told."""

    def values(column: Any) -> list[Any]:
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            raise
        except (ValueError, OverflowError):
            return [OfType(str(column.type))] * len(column)

    columns = [values(column) for column in batch.columns]
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


def _place_in_parquet(name: str, number: int, names: list[str]) -> Callable[[str | None], str]:
    def place(field: str | None) -> str:
        at = f"{name}, row {number}"
        return at if field is None else f"{at}, column {names.index(field) + 1} ({field})"

    return place
