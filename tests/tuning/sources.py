"""What the tests of source trainings share: small tasks, and plans of a few updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from tests.conftest import SETTINGS

from .training import CONTRADICTING, PAIRS, THINGS

REVERSED = [
    {"input": f"{'no' if pair['output'] == 'bad' else 'yes'} {pair['input']}", "output": pair["output"]}
    for pair in PAIRS
]
NAMED = [{"input": f"{thing} or what", "output": thing} for thing in THINGS[:6]]


def tasks(validated: bool = True, contradicting: bool = False) -> list[TaskData]:
    """Three, of several sizes, one of them without validation records."""
    mood = CONTRADICTING if contradicting else PAIRS[14:]
    return [
        TaskData(name="mood", records=PAIRS[:10], validation=mood if validated else None),
        TaskData(name="named", records=NAMED, verbalizer="Name it: {{input}}", tuning_task="generation"),
        TaskData(name="word", records=REVERSED[:7], validation=REVERSED[16:] if validated else None),
    ]


def source_plan(
    base: BaseModel, of: Sequence[TaskData] | None = None, resource: bool = False, **request: Any
) -> SourcePlan:
    """A plan of a few updates without teachers."""
    quick = {"num_virtual_tokens": 3, "num_epochs": 2, "batch_size": 6, "teacher_epochs": 0}
    whole = {"base_model": base.checkpoint.name, **quick, **request}
    return make_source_plan(whole, tasks() if of is None else of, SETTINGS, base if resource else None)


def same_source(one: TrainedSource, other: TrainedSource) -> bool:
    """To the last bit, with all that is known of it."""
    pairs = [
        (getattr(one.source, name), getattr(other.source, name)) for name in ("shared", "columns", "rows")
    ]
    return (
        all(torch.equal(a, b) for a, b in pairs)
        and list(one.tasks) == list(other.tasks)
        and one.recipe == other.recipe
    )
