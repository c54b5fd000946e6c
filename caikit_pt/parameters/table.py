"""One row a parameter: its type, range, default, and where the default comes from.

The tables made of these rows are the only place where a range or a default stands. Checks, error
texts and docs/parameters.md are all derived from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caikit_pt.errors import InvalidParameter

# Of what is no text for a model: names, fields, paths.
LONGEST_NAME = 4_096
Limits = Mapping[str, tuple[float, float]]
# The origin of what a request has set itself; with what it was in the request, where that was resolved.
REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of a request.

    `low` and `high` are inclusive unless `above_low`; text has `choices`, or up to `longest` characters.
    `default` None means that the default depends on something else, which `source` names.
    """

    name: str
    kind: type
    meaning: str
    default: Any = None
    source: str = ""
    low: float | None = None
    high: float | None = None
    above_low: bool = False
    choices: tuple[str, ...] = ()
    longest: int = LONGEST_NAME
    many: bool = False
    path: str = ""

    @property
    def field(self) -> str:
        """The field's name as the request spells it, with the message it stands in."""
        return f"{self.path}.{self.name}" if self.path else self.name

    def check(self, value: Any, limits: Limits | None = None) -> Any:
        """`value` as the parameter's type.

        Raises InvalidParameter where the type, the range or the choice is wrong. `limits` (by name)
        narrow the range and never widen it.
        """
        if self.many:
            return tuple(self._check_one(item, limits) for item in self._items(value))
        return self._check_one(value, limits)

    def allowed(self, limits: Limits | None = None) -> str:
        """What is allowed, in words."""
        if self.choices:
            return ", ".join(self.choices)
        low, high = self.range(limits)
        noun = "a whole number" if self.kind is int else "a number"
        if low is None and high is None:
            text = f"text of up to {self.longest:,} characters"
            return {str: text, bool: "true or false"}.get(self.kind, noun)
        if high is None:
            return f"{noun} {'above' if self.above_low else 'from'} {low:,g}" + (
                "" if self.above_low else " up"
            )
        if self.above_low:
            return f"{noun} above {low:,g} and up to {_plain(high)}"
        return f"{noun} from {_plain(low)} to {_plain(high)}"

    def nearest(self, value: Any, limits: Limits) -> Any:
        """The allowed number that is nearest to `value`: for defaults, never for a request's value."""
        low, high = self.range(limits)
        value = value if low is None else max(low, value)
        return self.kind(value if high is None else min(high, value))

    def _items(self, value: Any) -> Iterator[Any]:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise InvalidParameter(self.field, value, f"a list of {self.allowed()}")
        return iter(value)

    def _check_one(self, value: Any, limits: Limits | None) -> Any:
        value = self._as_kind(value, limits)
        if self.choices and value not in self.choices:
            raise InvalidParameter(self.field, value, self.allowed())
        if self.kind is str and len(value) > self.longest:
            raise InvalidParameter(self.field, value, self.allowed())
        if self.kind in (int, float):
            low, high = self.range(limits)
            too_low = low is not None and (value <= low if self.above_low else value < low)
            if not math.isfinite(value) or too_low or (high is not None and value > high):
                raise InvalidParameter(self.field, value, self.allowed(limits))
        return value

    def _as_kind(self, value: Any, limits: Limits | None) -> Any:
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.kind is int and hasattr(value, "__index__") and not isinstance(value, bool):
            return int(value)
        if not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            raise InvalidParameter(self.field, value, self.allowed(limits))
        return value

    def range(self, limits: Limits | None) -> tuple[float | None, float | None]:
        """The lowest and the highest value; None: there is no bound."""
        if not limits or self.name not in limits:
            return self.low, self.high
        low, high = limits[self.name]
        return (
            low if self.low is None else max(self.low, low),
            high if self.high is None else min(self.high, high),
        )


class ParameterTable:
    """The parameters of one kind of request, by name."""

    def __init__(self, *parameters: Parameter) -> None:
        self._by_name = {parameter.name: parameter for parameter in parameters}

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def check(self, request: Mapping[str, Any], limits: Limits | None = None) -> dict[str, Any]:
        """The values that `request` sets, each checked; None counts as unset.

        Raises InvalidParameter for the first that may not be, and for a name that isn't in the
        table.
        """
        unknown = sorted(set(request) - set(self._by_name))
        if unknown:
            raise InvalidParameter(unknown[0], request[unknown[0]], "one of " + ", ".join(self._by_name))
        return {
            name: self._by_name[name].check(value, limits)
            for name, value in request.items()
            if value is not None
        }

    def resolved(
        self, given: Mapping[str, Any], decided: Mapping[str, tuple[Any, str]]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The values and where each is from: a request's own first, then what was `decided` for it, with its
        origin, then the defaults that there are."""
        values, origins = dict[str, Any](), dict[str, str]()
        for name, parameter in self._by_name.items():
            if name in given:
                values[name], origins[name] = given[name], REQUEST
            elif name in decided:
                values[name], origins[name] = decided[name]
            elif parameter.default is not None:
                values[name], origins[name] = parameter.default, "default"
        return values, origins


def _plain(number: float | None) -> str:
    """A bound without exponent: 10,000 and 0.00001, not 1e+04 and 1e-05."""
    if number is None or number == int(number):
        return f"{int(number or 0):,}"
    return f"{number:.10f}".rstrip("0")
