"""What a cluster is asked for: a process for each run, on a node that has room for it.

It knows nothing of trainings: whatever a run and the server tell each other lies in the run's folder, which
a link (link.py) brings to the node and back. What has ended isn't begun again by a cluster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from caikit_pt.runtime.executors.node import Node, Resources


class RefusedRun(Exception):
    """A run that the cluster won't have, now or later."""


class Cluster(ABC):
    """Any thread may call. Methods raise OSError where it can't be reached now."""

    # What it is called in sentences.
    name = ""

    @abstractmethod
    def why_not(self) -> str:
        """Why it can't be reached now; empty where it can."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """Another one when it may be another cluster, at the same place, that answers."""

    @abstractmethod
    def start(self, name: str, job: str, fence: int, needs: Resources, helpers: int = 0) -> None:
        """Has `python -m caikit_pt.runtime.executors.keeper JOB FENCE` run where there is room, as soon as
        there is; it is known by `name`. With `helpers` it is `helper_keeper JOB FENCE HELPERS`. Raises
        RefusedRun."""

    @abstractmethod
    def running(self) -> Collection[str]:
        """The names of those that run or wait for room, whoever started them."""

    @abstractmethod
    def kill(self, name: str) -> None:
        """At once, and all that it has started; one that has ended stays so."""

    @abstractmethod
    def why_waiting(self, name: str, needs: Resources) -> str:
        """Why one that needs so much hasn't begun, in words; empty where nobody can tell."""

    @abstractmethod
    def nodes(self) -> Sequence[Node]:
        """Its machines."""

    @abstractmethod
    def close(self) -> None:
        """It isn't asked any more; what runs goes on."""
