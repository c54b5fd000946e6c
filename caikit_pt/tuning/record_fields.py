"""Which fields of a record are its input and its output, and what of their values is text.

Knows names and values, and nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from caikit_pt.errors import excerpt

# Each pair that is read by itself. The product's own are the first two; of the others a user is told.
PAIRS = (
    ("input", "output"),
    ("text", "labels"),
    ("text", "label"),
    ("prompt", "completion"),
    ("instruction", "response"),
)
_OWN, _LABELS, _MESSAGES = PAIRS[:2], ("label", "labels"), "messages"
_SHOWN = 6  # names in an error text
_TEXT = "text that is not empty"
_NAMED = (
    "a record with the fields input and output (or text and label, text and labels, prompt and completion, "
    "instruction and response, or messages of one turn); input_field and output_field name others. The first "
    "line of a table is its header: put the names there if it has none"
)
_TURN = (
    'two messages, {"role": "user", "content": TEXT} and {"role": "assistant", "content": TEXT}; what '
    "stands in a system message is for the verbalizer"
)


class UnusableField(Exception):
    """A record that can't be used for one of its fields, `name`, or for their names where it is None.

    `found` is what stands there, `expected` what should.
    """

    def __init__(self, name: str | None, found: str, expected: str) -> None:
        super().__init__(found)
        self.name, self.found, self.expected = name, found, expected


@dataclass(frozen=True, slots=True)
class OfType:
    """A value that there is no use for, known by its type alone."""

    type: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The names that a request gives for the two fields; empty where it leaves them open."""

    input: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The fields that are read, by their names in the record; of `messages` both are."""

    input: str
    output: str

    @property
    def classifies(self) -> bool:
        """Whether the output is a class."""
        return _plain(self.output) in _LABELS

    @property
    def told(self) -> str:
        """How the record was understood, where that has to be said."""
        if _plain(self.input) == _MESSAGES == _plain(self.output):
            return f"{self.input}, the user's as input and the assistant's as output"
        return f"{self.input} as input and {self.output} as output"

    @property
    def is_guessed(self) -> bool:
        """Whether it is by a name that isn't the product's own."""
        return (_plain(self.input), _plain(self.output)) not in _OWN


def input_and_output(fields: Mapping[str, Any], asked: Asked) -> tuple[str, str, Chosen]:
    """The texts of a record and the fields that they come from. Raises UnusableField."""
    chosen = _chosen(tuple(name for name in fields if isinstance(name, str)), asked)
    if chosen.input == chosen.output:
        return *_turn(chosen.input, fields[chosen.input]), chosen
    return _text(chosen.input, fields[chosen.input]), _text(chosen.output, fields[chosen.output]), chosen


def input_field(fields: Mapping[str, Any], asked: str) -> str:
    """The field of a record that is its input, where nothing else is needed: `asked`, or the input of one of
    the pairs that are read by themselves. Raises UnusableField."""
    return _input_named(tuple(name for name in fields if isinstance(name, str)), asked)


def input_text(name: str, value: Any) -> str:
    """The text of an input field; of `messages` what the user says, in one turn. Raises UnusableField."""
    if _plain(name) == _MESSAGES and isinstance(value, list):
        first = value[0] if value and isinstance(value[0], Mapping) else {}
        if first.get("role") != "user" or len(value) > 2:
            raise UnusableField(name, "other messages", _TURN)
        return _text(name, first.get("content"))
    return _text(name, value)


@lru_cache(maxsize=1024)
def _input_named(names: tuple[str, ...], asked: str) -> str:
    if asked:
        return _named(names, asked)
    known = [*dict.fromkeys(given for given, _ in PAIRS), _MESSAGES]
    found = [wanted for wanted in known if _find(names, wanted)]
    if known[0] in found:
        found = known[:1]
    if len(found) != 1:
        expected = f"a record with one of the fields {', '.join(known)}; input_field names another"
        raise UnusableField(None, _shown(names), expected)
    return _named(names, found[0])


@lru_cache(maxsize=1024)
def _chosen(names: tuple[str, ...], asked: Asked) -> Chosen:
    if asked.input or asked.output:
        wanted = (asked.input or "input", asked.output or "output")
        if _plain(wanted[0]) == _plain(wanted[1]) != _MESSAGES:
            raise UnusableField(None, f"input_field and output_field {wanted[0]!r}", "two different fields")
        return Chosen(*(_named(names, name) for name in wanted))
    complete = [pair for pair in (*PAIRS, (_MESSAGES, _MESSAGES)) if all(_find(names, one) for one in pair)]
    if PAIRS[0] in complete:
        complete = [PAIRS[0]]
    if not complete:
        raise UnusableField(None, _shown(names), _NAMED)
    if len(complete) > 1:
        raise UnusableField(None, _shown(names), "one pair of fields; input_field and output_field say which")
    return Chosen(*(_named(names, name) for name in complete[0]))


def _named(names: tuple[str, ...], wanted: str) -> str:
    found = _find(names, wanted)
    if not found:
        raise UnusableField(None, _shown(names), f"a record with the field {wanted!r}")
    if len(found) > 1:
        raise UnusableField(None, _shown(names), f"the field {wanted!r} once")
    return found[0]


def _find(names: Iterable[str], wanted: str) -> list[str]:
    """The name itself, or those that differ from it in case and blanks around it."""
    if wanted in names:
        return [wanted]
    return [name for name in names if _plain(name) == _plain(wanted)]


def _plain(name: str) -> str:
    return name.strip().casefold()


def _shown(names: tuple[str, ...]) -> str:
    if not names:
        return "no fields"
    return f"fields {', '.join(map(excerpt, names[:_SHOWN]))}" + (", …" if len(names) > _SHOWN else "")


def _turn(name: str, value: Any) -> tuple[str, str]:
    """What the user says and what the assistant answers, in a chat of one turn."""
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        raise UnusableField(name, _kind(value), _TURN)
    roles = [message.get("role") for message in value]
    if roles != ["user", "assistant"]:
        raise UnusableField(name, f"messages of {excerpt(', '.join(map(str, roles)))}", _TURN)
    asked, answer = (_text(name, message.get("content")) for message in value)
    return asked, answer


def _text(name: str, value: Any) -> str:
    """Raises UnusableField where it isn't text, or none that a tokenizer can read."""
    if _plain(name) == "labels" and isinstance(value, (list, tuple)) and value:
        return ",".join(_text(name, label) for label in value)
    if not isinstance(value, str):
        raise UnusableField(name, _kind(value), _TEXT)
    if not value.strip():
        raise UnusableField(name, excerpt(value), _TEXT)
    if "\0" in value:
        raise UnusableField(name, f"{excerpt(value)} with a NUL", "text without NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start].encode("unicode_escape").decode()
        raise UnusableField(
            name, f"half a character, {half}", "text of whole characters: a surrogate stands in a pair"
        ) from None
    return value


def _kind(value: Any) -> str:
    """What a value is that isn't text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (int, float)):
        return f"the number {excerpt(str(value))}, without quotes"
    if isinstance(value, OfType):
        return f"a value of type {value.type}"
    if isinstance(value, (list, tuple, bytes)):
        return f"{'bytes' if isinstance(value, bytes) else 'a list'}, {excerpt(str(value[:_SHOWN]))}"
    return "an object" if isinstance(value, Mapping) else f"a value of type {type(value).__name__}"
