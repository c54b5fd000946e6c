"""Defaults by the data and the model, where neither a request nor a preset says anything: a rule a line.

What each rests on stands in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules go by: the kind of model, and whether the verbalizer ends with the input."""

    family: str
    ends_with_input: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """A default of `parameter` where it has one for the facts, and where that comes from, in words."""

    parameter: str
    value: Callable[[Facts], Any | None]
    origin: Callable[[Facts], str]


_SEPARATORS = {"causal": "\n"}


def _separator(facts: Facts) -> str:
    """A line break keeps a causal model from going on with the text's last word; some templates bring an
    end of their own."""
    return _SEPARATORS.get(facts.family, "") if facts.ends_with_input else ""


def _separator_origin(facts: Facts) -> str:
    return f"{facts.family} model" if facts.ends_with_input else "the end of the verbalizer"


RULES = (Rule("separator", _separator, _separator_origin),)


def by_rules(facts: Facts) -> dict[str, tuple[Any, str]]:
    """The values of all rules that say anything about `facts`, by name, each with its origin."""
    values = {rule.parameter: (rule.value(facts), rule.origin(facts)) for rule in RULES}
    return {name: value for name, value in values.items() if value[0] is not None}
