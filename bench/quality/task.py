"""Tasks to train on: records to learn from, and as many others to be judged by as tell two percents apart."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from caikit_pt.base_model.frozen import BaseModel
from examples.pretraining.make_demo_data import EXAMPLES, TASKS, records
from examples.pretraining.row import read_rows

# What the embedded models were not pretrained on: a pairing of attribute and label words, a kind of message.
HELD_OUT = ("ticket_flag", "guestbook_sentiment")
TRAIN, TEST, FEWEST_TEST = 200, 500, 100
_SEED = 19
_TEXT = EXAMPLES / "pretraining" / "text" / "rows.jsonl.gz"
Record = dict[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """Records of a classification task."""

    name: str
    train: tuple[Record, ...]
    test: tuple[Record, ...]

    @property
    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({record["output"] for record in (*self.train, *self.test)})

    @property
    def sizes(self) -> tuple[int, int]:
        """How many records there are to learn from, and how many to be judged by."""
        return len(self.train), len(self.test)


def held_out_tasks(train: int = TRAIN, test: int = TEST) -> Iterator[Task]:
    """Fresh records of the grammar, none of which was pretrained on."""
    known = {row.input.lower() for row in read_rows(_TEXT)}
    for name in HELD_OUT:
        stream = records(TASKS[name], set(known), random.Random(f"{_SEED} {name}"))
        drawn = list(islice(stream, train + test))
        yield Task(name, tuple(drawn[:train]), tuple(drawn[train:]))


def real_tasks(root: Path, train: int = TRAIN, test: int = TEST) -> Iterator[Task]:
    """The classification sets under `root`, each a folder of meta.json, train.jsonl and test.jsonl."""
    for meta in sorted(root.glob("*/meta.json")):
        if json.loads(meta.read_text("utf-8"))["task"] == "classification":
            name = meta.parent.name
            yield Task(
                name,
                _drawn(meta.with_name("train.jsonl"), name, train),
                _drawn(meta.with_name("test.jsonl"), name, test),
            )


def left_out(task: Task, base: BaseModel) -> str:
    """Why `base` isn't tried on `task`, or nothing where it is."""
    if len(task.test) < FEWEST_TEST:
        return f"{task.name} is left out: with {len(task.test)} test records, points mean nothing."
    if unknown := unspeakable(task, base):
        return f"{task.name} is left out for {base.checkpoint.name}, which can't say {', '.join(unknown)}."
    return ""


def unspeakable(task: Task, base: BaseModel) -> list[str]:
    """Labels that `base` can't emit: with a token that no target of its pretraining has.

    A soft prompt steers what a frozen decoder says, and can't teach it a word.
    """
    spoken = _spoken(base)
    return [label for label in task.labels if not spoken.issuperset(base.target_ids(label))]


@cache
def _spoken(base: BaseModel) -> frozenset[int]:
    outputs = {row.output for row in read_rows(_TEXT)}
    return frozenset(token for output in outputs for token in base.target_ids(output))


def _drawn(file: Path, name: str, count: int) -> tuple[Record, ...]:
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    random.Random(f"{_SEED} {name}").shuffle(lines)
    return tuple(lines[:count])
