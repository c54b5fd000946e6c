"""Tasks to train on: records to draw from, others to choose by, and again others to be scored on."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

from caikit_pt.base_model.model import BaseModel
from examples.pretraining.make_demo_data import EXAMPLES, TASKS, records
from examples.pretraining.row import read_rows

# What the embedded models were not pretrained on: a pairing of attribute and label words, a kind of message.
HELD_OUT = ("ticket_flag", "guestbook_sentiment")
SELECTION, TEST = 500, 500
# Of the grammar, whose records never end, so many are there to draw from.
POOL = 2000
_SEED = 19
_TEXT = EXAMPLES / "pretraining" / "text" / "rows.jsonl.gz"
Record = dict[str, str]


@dataclass(frozen=True)
class Task:
    """Records of a classification task, in three parts that share none.

    What is trained on is drawn from `pool`. The best of several trainings is chosen by `selection`, and
    all are scored on `test`.
    """

    name: str
    pool: tuple[Record, ...]
    selection: tuple[Record, ...]
    test: tuple[Record, ...]

    @property
    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({record["output"] for record in (*self.pool, *self.selection, *self.test)})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all records, in their order."""
        text = json.dumps([self.name, self.pool, self.selection, self.test])
        return hashlib.sha256(text.encode()).hexdigest()

    def size(self, records: int) -> int:
        """`records`, or as many as there are to train on."""
        return min(records, len(self.pool))

    def draw(self, records: int, seed: int) -> list[Record]:
        """What a training with `seed` learns from; fewer records are the first of more."""
        return _shuffled(self.pool, f"{seed} {self.name}")[:records]


def held_out_tasks(selection: int = SELECTION, test: int = TEST) -> Iterator[Task]:
    """Fresh records of the grammar, none of which was pretrained on."""
    known = {row.input.lower() for row in read_rows(_TEXT)}
    for name in HELD_OUT:
        drawn = list(islice(records(TASKS[name], set(known), random.Random(f"{_SEED} {name}")), POOL + TEST))
        rest, tested = drawn[TEST:], drawn[:TEST]
        yield Task(name, tuple(rest[selection:]), tuple(rest[:selection]), tuple(tested[:test]))


def real_tasks(root: Path, selection: int = SELECTION, test: int = TEST) -> Iterator[Task]:
    """The classification sets under `root`, each a folder of meta.json, train.jsonl and test.jsonl.

    Selection records are taken from train.jsonl, at most half of them.
    """
    for meta in sorted(root.glob("*/meta.json")):
        if json.loads(meta.read_text("utf-8"))["task"] == "classification":
            name = meta.parent.name
            tested = _shuffled(_lines(meta.with_name("test.jsonl")), f"{_SEED} {name}")[:test]
            # Nothing that is scored on is learnt from, even where a set repeats itself.
            seen = {record["input"] for record in tested}
            lines = [line for line in _lines(meta.with_name("train.jsonl")) if line["input"] not in seen]
            rest = _shuffled(lines, f"{_SEED} {name}")
            chosen_by, pool = _parted(rest, min(selection, len(rest) // 2))
            yield Task(name, tuple(pool), tuple(chosen_by), tuple(tested))


def left_out(task: Task, base: BaseModel) -> str:
    """Why `base` isn't tried on `task`, or nothing where it is."""
    if unknown := unspeakable(task, base):
        return f"{task.name} is left out for {base.checkpoint.name}, which can't say {', '.join(unknown)}."
    return ""


def unspeakable(task: Task, base: BaseModel) -> list[str]:
    """Labels that `base` can't emit: with a token that no target of its pretraining has.

    A soft prompt steers what a frozen decoder says, and can't teach it a word.
    """
    spoken = _spoken(base)
    return [label for label in task.labels if not spoken.issuperset(base.text.target_ids(label))]


@cache
def _spoken(base: BaseModel) -> frozenset[int]:
    outputs = {row.output for row in read_rows(_TEXT)}
    return frozenset(token for output in outputs for token in base.text.target_ids(output))


def _parted(lines: list[Record], count: int) -> tuple[list[Record], list[Record]]:
    """The first `count`, and those of the others that have none of their inputs."""
    first = lines[:count]
    seen = {record["input"] for record in first}
    return first, [line for line in lines[count:] if line["input"] not in seen]


def _shuffled(lines: tuple[Record, ...] | list[Record], seed: str) -> list[Record]:
    return random.Random(seed).sample(lines, len(lines))


def _lines(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
