"""What a kind of job makes, from its plan to what is published: all in which kinds of jobs differ.

Whoever queues, runs, tells of and ends jobs knows no more of them than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.runtime.job import Job
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.records import Records
from caikit_pt.tuning.snapshot import Snapshots


class Plan(Protocol):
    """What a job trains, resolved."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The base model."""

    @property
    def streams(self) -> Sequence[Records | None]:
        """All of its records."""

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain values: `base_model`, `torch_dtype`, `device`, `origins` among them."""

    def check_training(self) -> None:
        """Tries a step. Raises InvalidParameter, OutOfMemory."""


class Doubtful(Protocol):
    """What a look through a plan has found."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is allowed and yet unlikely to be meant."""

    @property
    def device_memory(self) -> int:
        """Bytes that it is predicted to take on its device."""

    @property
    def least_memory(self) -> int:
        """Bytes of its device that it can't be trained without."""


AnyPlan = TypeVar("AnyPlan", bound=Plan)
Found = TypeVar("Found", bound=Doubtful, covariant=True)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a job is trained, and who is told: of phases, of updates, and of validations."""

    device: str
    # With the others of its base model, in the same passes.
    joined: bool
    # Who shares its updates; None: nobody.
    crew: Crew | None
    snapshots: Snapshots
    begun: Callable[[str], None]
    updated: Callable[[Progress], None]
    validated: Callable[[Validated], None]


class Making(ABC, Generic[AnyPlan, Found]):
    """One kind of job."""

    @abstractmethod
    def look_through(self, plan: AnyPlan, most: int) -> Found:
        """At `plan`, and at `most` of its records. Raises InvalidRecord."""

    @abstractmethod
    def write(self, plan: AnyPlan, directory: Path) -> None:
        """All of `plan`, into a job's folder. Raises OSError."""

    @abstractmethod
    def read(self, directory: Path) -> AnyPlan:
        """What was written. Raises BaseModelMismatch where the base model is another now, CaikitPtError."""

    @abstractmethod
    def make(self, plan: AnyPlan, artifact: Path, terms: Terms) -> None:
        """Minutes to hours; then the directory `artifact` is there, whole. Raises what ends a training."""

    @abstractmethod
    def publish(self, job: Job, made: Path, check: Callable[[], None]) -> str:
        """Publishes the artifact `made` in one step, in front of which it calls `check`; the name it has now.

        Done again, it comes to the same. Raises OSError where the disk won't have it, and what `check` does.
        """

    @abstractmethod
    def place(self, job: Job, name: str) -> Path:
        """Where that lies which was published as `name`."""

    @abstractmethod
    def verdict(self, made: Path) -> dict[str, Any]:
        """What came of it, by an artifact or by what was published; plain values, or none."""

    @abstractmethod
    def sentences(self, verdict: Mapping[str, Any], name: str) -> list[str]:
        """The verdict for a status, of what was published as `name`."""

    @abstractmethod
    def model(self, job: Job) -> str:
        """The name that trackers may register it by as a model; empty where it is none."""


AnyMaking = Making[Any, Doubtful]
