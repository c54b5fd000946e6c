"""What a source training would do and what there is to doubt, told before a weight is read: task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caikit_pt.tuning.batches import updates_per_epoch
from caikit_pt.tuning.preflight import Preflight, preflight
from caikit_pt.tuning.source_plan import SourcePlan

_OF_A_TASK = ("records", "validation_records", "source_tokens", "target_tokens")
# A teacher is asked in each pass, and learns nothing: a forward beside a forward and a backward.
_WITH_TEACHERS = 1.5


@dataclass(frozen=True, slots=True)
class SourcePreflight:
    """What was found of each task by its name, as of a training of its own, and the `plan` of all."""

    plan: SourcePlan
    tasks: Mapping[str, Preflight]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all tasks, with the task."""
        return tuple(f"{name}: {told}" for name, found in self.tasks.items() for told in found.warnings)

    @property
    def device_memory(self) -> int:
        """That of the task that takes most: they share the base model and take turns with the rest."""
        return max(found.device_memory for found in self.tasks.values())

    @property
    def least_memory(self) -> int:
        """That of the task that can't do with less."""
        return max(found.least_memory for found in self.tasks.values())

    @property
    def updates_per_epoch(self) -> int:
        """Of the source: tasks are mixed, each with up to `most_records` an epoch."""
        return updates_per_epoch(sum(map(self._drawn, self.tasks)), self.plan.training.window)

    @property
    def updates(self) -> int:
        """Of the source, behind those of the teachers."""
        return self.updates_per_epoch * self.plan.training.num_epochs

    @property
    def teacher_updates(self) -> int:
        """Of all teachers side by side; 0 without any."""
        if not self.plan.parameters.has_teachers:
            return 0
        return self.plan.parameters.teacher_epochs * max(one.updates_per_epoch for one in self.tasks.values())

    @property
    def seconds(self) -> float:
        """As far as can be told, on this machine: without the validations."""
        has_teachers, training = self.plan.parameters.has_teachers, self.plan.training
        once = {name: found.seconds / training.num_epochs for name, found in self.tasks.items()}
        drawn = sum(seconds * self._share(name) for name, seconds in once.items())
        teachers = self.plan.parameters.teacher_epochs * sum(once.values()) if has_teachers else 0.0
        return teachers + training.num_epochs * drawn * (_WITH_TEACHERS if has_teachers else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "tasks": {
                name: {what: value for what, value in found.to_dict().items() if what in _OF_A_TASK}
                for name, found in self.tasks.items()
            },
            "updates": self.updates,
            "updates_per_epoch": self.updates_per_epoch,
            "teacher_updates": self.teacher_updates,
            "seconds": round(self.seconds, 1),
            "device_memory_bytes": self.device_memory,
            "least_device_memory_bytes": self.least_memory,
            "parameters": self.plan.to_dict(),
            "warnings": list(self.warnings),
        }

    def _drawn(self, name: str) -> int:
        """Records of a task in an epoch."""
        return min(self.tasks[name].records, self.plan.parameters.most_records)

    def _share(self, name: str) -> float:
        return self._drawn(name) / self.tasks[name].records


def source_preflight(plan: SourcePlan, most: int | None = None) -> SourcePreflight:
    """Looks through `most` records of all streams in all, or a few more; through all of them without.

    Raises InvalidRecord as `tokens` does.
    """
    of_each = most and max(1, most // len(plan.tasks))
    return SourcePreflight(plan, {name: preflight(one, of_each) for name, one in plan.tasks.items()})
