"""Records as JSON: one a line, or an array."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from caikit_pt.errors import excerpt
from caikit_pt.tuning.record_text import LONGEST, NOT_LONGER, Position, Row, Text

_RECORD = '{"input": TEXT, "output": TEXT}'


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


def of_json_lines(text: Text) -> Iterator[Row]:
    """A record a line; empty lines are none. Raises InvalidRecord."""
    for number, line in enumerate(text.lines(), start=1):
        start = _behind_blanks(line, 0)
        if start == len(line):
            continue
        at = Position(text.name, number, start + 1)
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


def of_json(text: Text) -> Iterator[Row]:
    """The records of an array. Raises InvalidRecord."""
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

    def __init__(self, text: Text) -> None:
        self._pieces = iter(text)
        self._text, self._at = "", 0
        self._told, self._told_at = Position(text.name), 0

    def _position(self) -> Position:
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

    def value(self) -> tuple[Position, str, Any]:
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
        if size > LONGEST:
            at.refuse(excerpt(parts[0]), NOT_LONGER)
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


def _refuse_json(at: Position, text: str, error: Exception, expected: str) -> NoReturn:
    if not isinstance(error, json.JSONDecodeError):
        at.refuse(f"{excerpt(text)}, a number of too many digits or too deep a nesting", expected)
    found = excerpt(text[error.pos :]) if error.pos < len(text) else "the end"
    at.behind(text[: error.pos]).refuse(f"{found}, which isn't JSON ({error.msg})", expected)


def _json_row(at: Position, text: str, value: Any, expected: str) -> Row:
    if not isinstance(value, _Object):
        at.refuse(excerpt(text), expected)
    if value.twice is not None:
        _place_in_json(at, text, value.twice).refuse(
            f"the key {excerpt(value.twice)} for the second time", "each key once"
        )

    def place(name: str | None) -> str:
        return str(at) if name is None else f"{_place_in_json(at, text, name)} ({name})"

    return Row(value, place)


def _place_in_json(at: Position, text: str, name: str) -> Position:
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
