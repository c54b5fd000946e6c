"""Defaults by the data and the model, where neither a request nor a preset says anything: a rule a line.

What each rests on stands in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CAUSAL = "causal"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before a training: the kind of model, the task, how many records and labels there are."""

    family: str
    task: str
    records: int
    labels: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A default of `parameter` where it has one for the facts, and where that comes from, in words."""

    parameter: str
    value: Callable[[Facts], Any | None]
    origin: Callable[[Facts], str]


RULES = (
    Rule(
        "separator",
        lambda facts: "\n" if facts.family == CAUSAL else "",
        lambda facts: f"{facts.family} model",
    ),
)


def by_rules(facts: Facts) -> dict[str, tuple[Any, str]]:
    """The values of all rules that say anything about `facts`, by name, each with its origin."""
    values = {rule.parameter: (rule.value(facts), rule.origin(facts)) for rule in RULES}
    return {name: value for name, value in values.items() if value[0] is not None}
