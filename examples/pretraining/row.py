"""Rows of the pretraining text: an instruction (perhaps none), an input and its output."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from examples.pretraining import instruction
from examples.pretraining.grammar import KINDS, Message
from examples.pretraining.instruction import HELD_OUT_ATTRIBUTES, LABELS

ATTRIBUTE_WEIGHTS = {"sentiment": 3, "product": 2, "name": 2}
"""What is said in the most ways is asked for most often; other attributes weigh 1."""

KIND_WEIGHTS = {"ticket": 8, "query": 3, "tweet": 3, "film": 2, "points": 2, "record": 2}
"""How often each kind of message is drawn. The guest book is missing: it is held out."""


@dataclass(frozen=True)
class Row:
    """One pretraining example; `instruction` is empty where the model has to guess or go on."""

    instruction: str
    input: str
    output: str


def draw_rows(count: int, rng: random.Random) -> Iterator[Row]:
    """`count` rows, from easy to hard: short messages and much copying first.

    Copying has to be learned before a span can be extracted, and it is learned soonest on short
    texts, which also cost least.
    """
    for index in range(count):
        yield draw_row(index / count, rng)


def draw_row(progress: float, rng: random.Random) -> Row:
    """A random message and one random thing to do with it; `progress` goes from 0 to 1."""
    kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
    message = KINDS[kind](rng, min(1.0, 0.1 + 1.8 * progress))
    if rng.random() < max(0.05, 0.4 - 2 * progress):
        return _copy(message, rng)
    asked = _ask(message, rng)
    lot = rng.random()
    if lot < 0.04:
        return _continuation(message, rng)
    if lot < 0.1:
        return Row("", message.text, asked.answer)
    return Row(asked.text, message.text, asked.answer)


def _ask(message: Message, rng: random.Random) -> instruction.Instruction:
    attributes = sorted(set(message.facts) - HELD_OUT_ATTRIBUTES)
    weights = [ATTRIBUTE_WEIGHTS.get(attribute, 1) for attribute in attributes]
    attribute = rng.choices(attributes, weights=weights)[0]
    value = message.facts[attribute]
    if attribute not in LABELS:
        return instruction.for_open(attribute, value, rng)
    if rng.random() < 0.25:
        return instruction.for_pair(attribute, value, rng)
    return instruction.for_labels(attribute, value, rng)


def _continuation(message: Message, rng: random.Random) -> Row:
    words = message.text.split(" ")
    cut = rng.randint(1, max(1, len(words) - 1))
    return Row("", " ".join(words[:cut]), " ".join(words[cut:]) or words[-1])


def _copy(message: Message, rng: random.Random) -> Row:
    """A short piece of the message, twice: long copies would take most of the training time."""
    words = message.text.split(" ")
    start = rng.randrange(len(words))
    piece = " ".join(words[start : start + rng.randint(1, 6)])
    return Row(rng.choice(("Repeat:", "Copy the text.", "Say the same", "echo")), piece, piece)


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write gzipped JSON lines that are the same bytes whenever they are written."""
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode("utf-8"), compresslevel=9, mtime=0))


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_rows` wrote."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]
