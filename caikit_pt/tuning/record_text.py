"""The text of a file of records, whatever its encoding, and places in it."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from caikit_pt.errors import InvalidRecord, excerpt

LONGEST = 2**26  # characters of one record
NOT_LONGER = f"a record of at most {LONGEST:,} characters"
_PIECE = 2**16  # bytes
_BEFORE = 20  # characters
# The longer ones first: one begins like another.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What isn't text, and is taken for it by its name.
_PACKED = (
    (b"\x1f\x8b", "gzip", "the same file under a name that ends in .gz, or unpacked: gunzip -k FILE"),
    (b"PK\x03\x04", "zip, as .zip and .xlsx are", "text: unpacked, or saved as CSV"),
)
_IN_UTF8 = "text in UTF-8, or in UTF-16 with a byte order mark"


@dataclass(frozen=True, slots=True)
class Row:
    """A record as a file has it. `place` tells file, line and column of one of its fields, and of what
    names them for None."""

    fields: Mapping[str, Any]
    place: Callable[[str | None], str]


@dataclass(slots=True)
class Text:
    """The text of a file in pieces, line ends as `\\n`."""

    file: io.BufferedIOBase
    name: str

    def __iter__(self) -> Iterator[str]:
        at = Position(self.name)
        start = self._read(at)
        for mark, packed, ending in _PACKED:
            if start.startswith(mark):
                at.refuse(f"a file that is packed by {packed}", ending)
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

    def _read(self, at: Position) -> bytes:
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
            if size > LONGEST:
                Position(self.name, number + 1).refuse(excerpt(held[0]), NOT_LONGER)
        if size:
            yield "".join(held)


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands in a file, from 1 on."""

    name: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}, column {self.column}"

    def behind(self, text: str) -> Position:
        """Where what follows `text` stands."""
        lines = text.count("\n")
        if not lines:
            return Position(self.name, self.line, self.column + len(text))
        return Position(self.name, self.line + lines, len(text) - text.rindex("\n"))

    def refuse(self, found: str, expected: str) -> NoReturn:
        """Raises InvalidRecord."""
        raise InvalidRecord("file", f"{self}: {found}", expected) from None


def _refuse_nul(at: Position, text: str) -> NoReturn:
    at.behind(text[: text.index("\0")]).refuse(
        "a NUL", f"{_IN_UTF8}, without NUL characters; UTF-16 without its mark looks like this"
    )


def _refuse_bytes(at: Position, error: UnicodeDecodeError) -> NoReturn:
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
