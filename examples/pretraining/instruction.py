"""Instructions: how an attribute of a message is asked for, and in which words it is answered.

The same attribute is asked for in many wordings and answered in many label words, so that a model
learns to take both from what stands in front of the text. That place is where a soft prompt goes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LABELS: dict[str, tuple[dict[str, str], ...]] = {
    "sentiment": (
        {"positive": "positive", "negative": "negative"},
        {"positive": "good", "negative": "bad"},
        {"positive": "happy", "negative": "unhappy"},
    ),
    "urgency": (
        {"urgent": "urgent", "routine": "routine"},
        {"urgent": "high", "routine": "low"},
        {"urgent": "now", "routine": "later"},
    ),
    "politeness": (
        {"polite": "polite", "rude": "rude"},
        {"polite": "kind", "rude": "harsh"},
    ),
    "irony": (
        {"irony": "irony", "non irony": "non irony"},
        {"irony": "ironic", "non irony": "sincere"},
    ),
    "complaint": (
        {"complaint": "complaint", "no complaint": "no complaint"},
        {"complaint": "trouble", "no complaint": "chat"},
    ),
    "subjectivity": (
        {"subjective": "subjective", "objective": "objective"},
        {"subjective": "opinion", "objective": "fact"},
    ),
    "points": (
        {"pro": "pro", "con": "con"},
        {"pro": "strength", "con": "weakness"},
    ),
}
"""Label words of the two-valued attributes; the first set is the one an instruction may omit."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("yes", "no"),
    ("true", "false"),
    ("red", "green"),
    ("A", "B"),
)
"""Label words of no meaning of their own: the first for the first value of `LABELS`, always.

That they mean the same whatever is asked is what lets a held-out pairing be composed.
"""

HELD_OUT_PAIRINGS: frozenset[tuple[str, str]] = frozenset(
    {("urgency", "red"), ("politeness", "true"), ("irony", "yes"), ("sentiment", "A")}
)
"""(attribute, first word of the pair): combinations that pretraining never shows."""

OPEN: dict[str, tuple[str, ...]] = {
    "domain": ("domain", "domain of the question", "field", "skill"),
    "section": ("section", "department", "section of the shop"),
    "wish": ("wish", "request", "wish of the writer"),
    "product": ("product", "product named", "thing it is about"),
    "name": ("name", "person", "name of the person"),
    "place": ("place", "city", "town"),
    "order": ("order number", "number of the order", "reference"),
    "handle": ("account", "handle", "company"),
    "first": ("first point", "first item"),
    "title": ("title", "name of the venue"),
    "food": ("food", "cuisine"),
    "area": ("area", "part of the city"),
    "sentence": ("sentence", "description", "sentence from the fields"),
}
"""Attributes answered by their own value (a class, a span, a sentence), and what to call them."""

HELD_OUT_ATTRIBUTES = frozenset({"day"})
"""Attributes that messages state but that pretraining never asks for."""

_OPEN_FORMS = (
    "{noun}?",
    "{noun}:",
    "Give the {noun}.",
    "What is the {noun}?",
    "Find the {noun} in the text.",
    "Write the {noun}",
    "{noun}",
)
_CHOICE_FORMS = (
    "{a} or {b}?",
    "{noun}: {a} or {b}?",
    "{noun}, {a} / {b}",
    "Is it {a} or {b}?",
    "Say {a} or {b}.",
    "Classify the {noun} as {a} or {b}.",
)


@dataclass(frozen=True)
class Instruction:
    """A wording and the answer it asks for."""

    text: str
    answer: str


def for_open(attribute: str, value: str, rng: random.Random) -> Instruction:
    """Ask for an attribute that is answered by its own value."""
    form = rng.choice(_OPEN_FORMS)
    return Instruction(_cased(form.format(noun=rng.choice(OPEN[attribute])), rng), value)


def for_labels(attribute: str, value: str, rng: random.Random) -> Instruction:
    """Ask for a two-valued attribute in one of its own sets of label words."""
    labels = rng.choice(LABELS[attribute])
    if labels is LABELS[attribute][0] and rng.random() < 0.5:
        text = rng.choice(_OPEN_FORMS).format(noun=attribute)
        return Instruction(_cased(text, rng), labels[value])
    return _choice(attribute, list(labels.values()), labels[value], rng)


def for_pair(attribute: str, value: str, rng: random.Random) -> Instruction:
    """Ask for a two-valued attribute in a pair of words that mean nothing by themselves."""
    pairs = [pair for pair in PAIRS if (attribute, pair[0]) not in HELD_OUT_PAIRINGS]
    pair = rng.choice(pairs)
    answer = pair[list(LABELS[attribute][0]).index(value)]
    return _choice(attribute, list(pair), answer, rng, named=True)


def _choice(
    attribute: str, words: list[str], answer: str, rng: random.Random, *, named: bool = False
) -> Instruction:
    """List the words in either order; words without a meaning need the attribute's name."""
    rng.shuffle(words)
    forms = [form for form in _CHOICE_FORMS if "{noun}" in form or not named]
    text = rng.choice(forms).format(noun=attribute, a=words[0], b=words[1])
    return Instruction(_cased(text, rng), answer)


def _cased(text: str, rng: random.Random) -> str:
    return text[0].upper() + text[1:] if rng.random() < 0.7 else text
