"""How source prompts are trained: on which tasks, and what is asked for beside the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.quality.task import Record
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from examples.pretraining.make_demo_data import EXAMPLES

# None of them is a target. The embedded models were pretrained on tasks of these kinds.
TASKS = (
    "assistant_domain",
    "device_points",
    "film_subjectivity",
    "ticket_politeness",
    "ticket_product",
    "ticket_sentiment",
    "ticket_urgency",
    "tweet_complaint",
    "tweet_irony",
)
_RATE = TUNING_PARAMETERS["learning_rate"].default


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is asked of a source training; everything else is at its default."""

    name: str
    request: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = Recipe("default")
WITHOUT_TEACHERS = Recipe("without-teachers", {"teacher_epochs": 0})
ONE_RATE = Recipe("one-rate", {"learning_rate": _RATE, "task_learning_rate": _RATE})


def source_records(tasks: int | None = None, most: int | None = None) -> dict[str, list[Record]]:
    """Of each source task its records; of the first so many tasks, and of each the first so many."""
    return {name: _lines(name)[:most] for name in TASKS[:tasks]}


def _lines(name: str) -> list[Record]:
    text = (EXAMPLES / "data" / name / "train.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
