"""A training job as the store knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

QUEUED, RUNNING, PAUSED = "QUEUED", "RUNNING", "PAUSED"
COMPLETED, CANCELED, ERRORED = "COMPLETED", "CANCELED", "ERRORED"
TERMINAL = (COMPLETED, CANCELED, ERRORED)
STATES = (QUEUED, RUNNING, PAUSED, *TERMINAL)
# Those of jobs that will run, or may.
WAITING = (QUEUED, PAUSED)

# What a job makes (making.py).
PROMPT, SOURCE = "prompt", "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row. Times are seconds since 1970, None for what hasn't happened yet."""

    id: str
    # What it is published as: the name of a model, or that of a source prompt.
    model_name: str
    # The directory that the tuned prompt is published as; of a source prompt that of all its versions.
    path: str
    # Of the whole request, records included: two submissions with one id are one job, or a mistake.
    digest: str
    # Resolved, with `origins`.
    parameters: Mapping[str, Any]
    submitted: float
    number: int = 0
    state: str = QUEUED
    started: float | None = None
    ended: float | None = None
    # Deaths of its process since the last new snapshot.
    deaths: int = 0
    reasons: Sequence[str] = ()
    # The last of its progress events.
    progress: Mapping[str, Any] = field(default_factory=dict)
    # Who submitted it: a principal, or a host where nobody has to say who he is.
    tenant: str = ""
    makes: str = PROMPT
    # The number of its last run, of which there is one at a time: whatever an earlier one still does counts
    # for nothing. 0: none yet.
    fence: int = 0
    # Of that run, so many reports are noted, and whether nobody has noted its end.
    heard: int = 0
    is_open: bool = False
    # The server that has it while it is under way, or asked for in a cluster; empty: none.
    owner: str = ""
    # The state that whoever has it is asked to put it into.
    wish: str = ""
    # Bytes that its training is predicted to take on its device; 0: nobody knows.
    memory: int = 0
    # Bytes of its device that it can't be trained without; 0: nobody knows.
    least_memory: int = 0

    @property
    def ended_for_good(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; `number` counts from 1 within the job."""

    number: int
    time: float
    kind: str
    data: Mapping[str, Any]


# The kinds of events, and what their data hold.
STATE = "state"  # state, reasons
PHASE = "phase"  # phase: loading, training (of a source: teachers, sources), publishing
PROGRESS = (
    "progress"  # step, steps, epoch, loss, validation_loss, learning_rate, ..._per_second, eta_seconds, phase
)
VALIDATION = "validation"  # step, epoch, scores by name (of tasks TASK/NAME), best: whether of all so far
SNAPSHOT = "checkpoint"  # step, seconds
WARNING = "warning"  # text
DEATH = "death"  # text: why its process died
VERDICT = "verdict"  # what verdict.json says
ARTIFACT = "artifact"  # path, model_name: of a source with its version
WAITING_FOR = "waiting"  # text: what it needs that there is no room for
TRACKING = "tracking"  # tracker, text: where it is tracked
