"""Where a source training stands, over its two phases."""

from __future__ import annotations

from dataclasses import dataclass

from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.progress import Progress

# One after the other: the teachers of all tasks side by side, then the prompts that share rows.
TEACHERS, SOURCES = "teachers", "sources"


@dataclass(frozen=True, slots=True)
class SourceProgress(Progress):
    """`step` of `steps` over both phases, `epoch` of the one at hand. `loss` is nats a target token; of
    teachers the mean of theirs, and `learning_rate` that of the first."""

    phase: str = SOURCES
    samples_in_all: int = 0

    @property
    def eta_seconds(self) -> float:
        """By the samples that are left: an update of the teachers has those of all tasks."""
        return self.seconds / max(1, self.samples) * (self.samples_in_all - self.samples)


@dataclass(frozen=True, slots=True)
class TaskValidated:
    """A validation of one `task` in one `phase`, at an update of both; of no task: the mean of all, whose
    `best` decides what is kept."""

    phase: str
    task: str
    found: Validated
