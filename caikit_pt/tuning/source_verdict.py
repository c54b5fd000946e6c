"""What came of a source training, for whoever has to decide whether to start from its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caikit_pt.soft_prompt.source_manifest import SourceManifest
from caikit_pt.tuning.course import course_sentences

_TEACHER = "teacher_"


def source_verdict(manifest: SourceManifest) -> dict[str, Any]:
    """Plain values: how the loss went, which update is kept, and of each task its name, its records and, on
    its validation records, what the source and its teacher are worth."""
    recipe = manifest.recipe
    told: dict[str, Any] = {
        "course": recipe["course"],
        "kept": {"epoch": recipe["kept_epoch"], "step": recipe["kept_update"]},
        "skipped_updates": recipe["skipped_updates"],
        "tasks": [
            {"name": task.name, "records": task.records, "metrics": dict(task.metrics)}
            for task in manifest.tasks
        ],
    }
    validated = {"validation_loss": recipe["validation_loss"]} if "validation_loss" in recipe else {}
    return {**told, **validated}


def sentences(verdict: Mapping[str, Any]) -> list[str]:
    """The verdict for a status: a sentence or two a line."""
    if not verdict:
        return []
    kept = verdict["kept"]
    lines = course_sentences(
        verdict, f"Kept is the source after epoch {kept['epoch']}, update {kept['step']}."
    )
    return [*lines, *(_of_task(task) for task in verdict["tasks"] if task["metrics"])]


def _of_task(task: Mapping[str, Any]) -> str:
    metrics = task["metrics"]
    told = [
        f"{name} {metrics[name]:.3f}{_teacher(metrics, name)}"
        for name in metrics
        if not name.startswith(_TEACHER)
    ]
    return f"{task['name']}, on its validation records: {', '.join(told)}."


def _teacher(metrics: Mapping[str, float], name: str) -> str:
    taught = metrics.get(f"{_TEACHER}{name}")
    return "" if taught is None else f" (its teacher: {taught:.3f})"
