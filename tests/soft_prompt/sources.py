"""Source prompts for tests, with all that a training would know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_manifest import Recipe, SourceTask, data_sha256

TASKS = (
    SourceTask(
        name="mood",
        records=8,
        data_sha256=data_sha256([("The lamp is great", "good"), ("Ünicode\u2028", "bad")]),
        verbalizer="Mood? {{input}}",
        separator="\n",
        metrics={"accuracy": 0.875, "loss": 0.25},
    ),
    SourceTask(name="urgency"),
)
RECIPE: Recipe = {"updates": 250, "learning_rate": 0.3, "teachers": True, "layers": (1, 2), "note": None}


def drawn(
    checkpoint: Checkpoint, tokens: int = 5, rank: int = 2, submodules: int = 1, tasks: bool = True
) -> SourcePrompt:
    """Two tasks, or none, of random numbers, all bits of which count."""
    generator = torch.Generator().manual_seed(7)
    rows, width = tokens * submodules, checkpoint.hidden_size
    shapes = ((rows, width), (2, rows, rank), (2, rank, width))
    shared, columns, own = (torch.randn(shape, generator=generator) for shape in shapes)
    return SourcePrompt(
        "drawn",
        shared,
        columns if tasks else None,
        own if tasks else None,
        submodules,
        tuple(task.name for task in TASKS) if tasks else (),
    )


def published(root: Path, checkpoint: Checkpoint, name: str = "mine", **changed: Any) -> SourcePrompt:
    """`drawn` as a new version of `name`."""
    default = changed.pop("default", False)
    source = drawn(checkpoint, **changed)
    tasks = TASKS if source.tasks else ()
    return SourceLibrary(root).publish(name, source, checkpoint, tasks, RECIPE, default)


def same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether both are the same numbers to the last bit, or neither is there."""
    if one is None or other is None:
        return one is other
    return torch.equal(one.view(torch.int32), other.view(torch.int32))
