"""A JSON object whose fields are read one by one, each as its type, or refused by its name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from caikit_pt.errors import shown

# Whole numbers that every reader of JSON has exactly.
LARGEST_WHOLE = 2**53
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
Scalar = str | int | float | bool | None


class WrongField(ValueError):
    """A field holds what it may not hold; the text names it."""


class JsonObject:
    """One object; `path` is what its fields' names begin with, as `tasks[2].`."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values, self._path = values, path

    @classmethod
    def of(cls, content: bytes) -> JsonObject:
        """The object that `content` is, in UTF-8. Raises WrongField, also for a key that is there twice."""
        try:
            values = json.loads(
                content.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_number
            )
        except WrongField:
            raise
        except (ValueError, RecursionError) as error:
            raise WrongField(f"it is no JSON in UTF-8 ({type(error).__name__})") from error
        if not isinstance(values, dict):
            raise WrongField("it is JSON, and no object")
        return cls(values)

    def text(self, name: str, longest: int, default: str | None = None) -> str:
        """One without NUL or half a surrogate pair, of up to `longest` characters."""
        value = self._value(name, default)
        if not isinstance(value, str) or len(value) > longest or not _is_text(value):
            raise self._wrong(name, f"text of up to {longest:,} characters")
        return value

    def name(self, name: str, longest: int) -> str:
        """A text that isn't empty, and that a terminal can show."""
        value = self.text(name, longest)
        if not value.strip() or not value.isprintable():
            raise self._wrong(name, f"1 to {longest:,} characters that can be shown")
        return value

    def sha256(self, name: str, default: str | None = None) -> str:
        """`sha256:` and 64 hexadecimal digits; or the default."""
        value = self._value(name, default)
        if value != default and not (isinstance(value, str) and _SHA256.fullmatch(value)):
            raise self._wrong(name, "sha256: and 64 lower-case hexadecimal digits")
        return str(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in a range, both ends included."""
        value = self._value(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low:,} to {high:,}")
        return value

    def truth(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._value(name, default)
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def objects(self, name: str, most: int) -> Iterator[JsonObject]:
        """Those of a list."""
        values = self._value(name, None)
        if not isinstance(values, list) or len(values) > most:
            raise self._wrong(name, f"a list of up to {most:,} objects")
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise WrongField(f"{self._path}{name}[{index}] is {shown(value)}, not an object")
            yield JsonObject(value, f"{self._path}{name}[{index}].")

    def object(self, name: str, most: int) -> JsonObject:
        """An object with up to `most` fields; empty where there is none."""
        values = self._value(name, {})
        if not isinstance(values, dict) or len(values) > most:
            raise self._wrong(name, f"an object of up to {most:,} fields")
        return JsonObject(values, f"{self._path}{name}.")

    def numbers(self, longest: int) -> dict[str, float]:
        """All of its fields, which are finite numbers. Names have up to `longest` characters."""
        return {name: self._number(name) for name in self._names(longest)}

    def texts(self, longest: int) -> dict[str, str]:
        """All of its fields, which are texts. They and their names have up to `longest` characters."""
        return {name: self.text(name, longest) for name in self._names(longest)}

    def scalars(self, longest: int, most: int) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """All of its fields: texts, numbers, truths and nulls, and lists of up to `most` of them."""
        return {name: self._scalars(name, longest, most) for name in self._names(longest)}

    def _names(self, longest: int) -> list[str]:
        for name in self.values:
            if not name or len(name) > longest or not name.isprintable():
                raise WrongField(
                    f"{self._path}{shown(name)} is a name of other than 1 to {longest} characters that can "
                    "be shown"
                )
        return list(self.values)

    def _number(self, name: str) -> float:
        value = self.values[name]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def _scalars(self, name: str, longest: int, most: int) -> Scalar | tuple[Scalar, ...]:
        value = self.values[name]
        many = isinstance(value, list)
        values = value if many else [value]
        if len(values) > most or not all(_is_scalar(one, longest) for one in values):
            raise self._wrong(
                name,
                f"text of up to {longest:,} characters, a number, true, false or null, or a list of up to "
                f"{most:,} of them",
            )
        return tuple(values) if many else values[0]

    def _value(self, name: str, default: Any) -> Any:
        """Raises WrongField where it is missing and has no default."""
        if name in self.values:
            return self.values[name]
        if default is None:
            raise WrongField(f"{self._path}{name} is missing")
        return default

    def _wrong(self, name: str, allowed: str) -> WrongField:
        return WrongField(f"{self._path}{name} is {shown(self.values.get(name))}, not {allowed}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WrongField(f"{shown(twice)} is there twice in an object")
    return values


def _no_number(text: str) -> None:
    raise WrongField(f"{text} is no number of JSON")


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= one <= "\udfff" for one in value)


def _is_scalar(value: Any, longest: int) -> bool:
    if isinstance(value, str):
        return len(value) <= longest and _is_text(value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return abs(value) <= LARGEST_WHOLE
    return isinstance(value, float) and math.isfinite(value)
