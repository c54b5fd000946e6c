"""The runs in a cluster that help another one, on whatever nodes have room."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress

from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.node import Resources

_LOG = logging.getLogger(__name__)
# One that ends so many times before who leads does isn't begun again.
_TRIES = 3
_SIGN = "+"


def led_by(name: str) -> str:
    """The name of the run that the one called `name` helps; its own where it is no helper's."""
    lead, sign, _ = name.rpartition(_SIGN)
    return lead if sign else name


class HelperRuns:
    """Those that help the run called `lead`, with number `fence` of the job whose folder nodes find at `job`:
    of so many helpers each, all of which together need so much."""

    def __init__(
        self, cluster: Cluster, lead: str, job: str, fence: int, each: Sequence[tuple[int, Resources]]
    ) -> None:
        self._cluster, self._lead, self._job, self._fence = cluster, lead, job, fence
        self._each, self._tries = each, [0] * len(each)

    def keep(self) -> None:
        """Those that aren't there are begun. Raises OSError."""
        if not self._each:
            return
        running = self._cluster.running()
        for place, (count, needs) in enumerate(self._each):
            if self._tries[place] < _TRIES and not self._own(running, place):
                # Nobody knows which of its names an earlier server has used.
                name = f"{self._lead}{_SIGN}{place + 1}.{secrets.token_hex(4)}"
                self._begin(place, name, count, needs)

    def end(self) -> None:
        """All, at once. Where the cluster can't be reached they see by themselves that who leads is gone."""
        with suppress(OSError):
            for name in self._own(self._cluster.running()) if self._each else ():
                self._cluster.kill(name)

    def _own(self, running: Collection[str], place: int | None = None) -> list[str]:
        """All of them, or that in one `place`, whichever try it is."""
        begin = f"{self._lead}{_SIGN}" + ("" if place is None else f"{place + 1}.")
        return [name for name in running if name.startswith(begin)]

    def _begin(self, place: int, name: str, count: int, needs: Resources) -> None:
        """Who leads goes on without. Raises OSError."""
        try:
            self._cluster.start(name, self._job, self._fence, needs, count)
            self._tries[place] += 1
        except RefusedRun as error:
            self._tries[place] = _TRIES
            _LOG.warning("%s won't have helpers for %s: %s", self._cluster.name, self._lead, error)
