"""What there is to doubt in a source training, told before a weight is read: task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caikit_pt.tuning.preflight import Preflight, preflight
from caikit_pt.tuning.source_plan import SourcePlan


@dataclass(frozen=True, slots=True)
class SourcePreflight:
    """That of each task by its name, as of a training of its own."""

    tasks: Mapping[str, Preflight]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all tasks, with the task."""
        return tuple(f"{name}: {told}" for name, found in self.tasks.items() for told in found.warnings)

    @property
    def device_memory(self) -> int:
        """That of the task that takes most: they share the base model and take turns with the rest."""
        return max(found.device_memory for found in self.tasks.values())


def source_preflight(plan: SourcePlan, most: int) -> SourcePreflight:
    """Looks through `most` records of all streams in all, or a few more. Raises InvalidRecord."""
    of_each = max(1, most // len(plan.tasks))
    return SourcePreflight({name: preflight(one, of_each) for name, one in plan.tasks.items()})
