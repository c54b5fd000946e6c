"""Where jobs are run: in processes of this machine (local.py), or in those of a cluster."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence

from caikit_pt.runtime.executors.node import Node
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.reports import Report


class Run(ABC):
    """A process with a job, or, where trainings are joined, with those of one base model."""

    def __init__(self) -> None:
        # It was ended, or told to end, from here: that is no death.
        self.killed = self.paused = False
        # The server ends, and it doesn't.
        self.goes_on = False
        # No job may be given to it any more.
        self.over = False
        # Its jobs are another server's: what it still tells is for nobody.
        self.is_let_go = False

    @property
    def is_blameless(self) -> bool:
        """Whether its end says nothing of its jobs."""
        return self.killed or self.paused

    @abstractmethod
    def begin(self, order: Order) -> None:
        """One more job of it. Raises OSError where the process is gone, or was told to end."""

    @abstractmethod
    def leave(self, id: str) -> None:
        """A job of it is to end behind a snapshot; the others go on. Raises OSError as `begin` does."""

    @abstractmethod
    def stop(self) -> None:
        """Whatever it does, it keeps a snapshot and ends."""

    @abstractmethod
    def kill(self) -> None:
        """It and all its children, at once."""

    def let_go(self) -> None:
        """Its jobs are another server's from now on, which finds it again, or begins from their snapshots."""
        self.is_let_go = True

    @abstractmethod
    def reports(self) -> Iterator[Report]:
        """All that it tells, until nothing more will come."""

    @abstractmethod
    def cause_of_death(self) -> str:
        """Why it has ended, in words; waits until it has."""


def name_of_signal(number: int) -> str:
    """Real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Executor(ABC):
    """Runs jobs. Any thread may call."""

    # Whether trainings of one base model share a process.
    joins = False
    # Whether a run goes on when the server ends; the next one finds it again.
    outlives = False
    # Processes that share the updates of a training.
    workers = 1
    # Of these, on other machines than who leads.
    elsewhere = 0
    # What every process of it has to see.
    environment: Mapping[str, str] = {}

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether there are no more runs."""

    @abstractmethod
    def start(self, prepared: bool) -> None:
        """From now on there may be runs; what takes time for the first is done before, if `prepared`. Raises
        OSError."""

    @abstractmethod
    def why_not(self) -> str:
        """Why no run can begin now, whatever its job; empty where it can."""

    @abstractmethod
    def wait_until_ready(self) -> None:
        """Some seconds at times. Raises OSError where there can be no run."""

    @abstractmethod
    def place(self, job: Job, taken: Collection[int], promised: Mapping[int, int]) -> Placement:
        """Where a job is trained, besides the GPUs that are `taken`. Of each GPU so many bytes are `promised`
        to those who don't have them yet. Raises NoRoom."""

    @abstractmethod
    def run_of(self, job: Job, folder: JobFolder) -> Run:
        """A process for a job, which has still to be begun in it. Raises OSError."""

    @abstractmethod
    def found(self, job: Job, folder: JobFolder) -> Run | None:
        """The run of a job that an earlier server began and whose end nobody has noted; None where there is
        none."""

    @abstractmethod
    def nodes(self) -> Sequence[Node]:
        """The machines that it has. Raises OSError where nobody can tell now."""

    @abstractmethod
    def close(self) -> None:
        """There are no more runs; those that are there live on."""
