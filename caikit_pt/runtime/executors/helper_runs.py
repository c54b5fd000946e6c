"""The runs in a cluster that help another one, on whatever nodes have room."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.node import Resources

_LOG = logging.getLogger(__name__)
# One that ends so many times before who leads does isn't begun again.
_TRIES = 3
_SECONDS_TO_ANOTHER = 20.0
# One that was there for so long has helped.
_SECONDS_TO_FORGIVE = 600.0
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
        # Of each, when it may be begun, and since when it is there.
        self._not_before, self._since = [0.0] * len(each), [0.0] * len(each)

    def keep(self) -> None:
        """Those that aren't there are begun. Raises OSError where nobody can tell which are."""
        if not self._each:
            return
        running, now = self._cluster.running(), time.monotonic()
        for place in range(len(self._each)):
            if self._own(running, place):
                self._since[place] = self._since[place] or now
                # Not at once: who leads may be about to end, and has let them go.
                self._not_before[place] = now + _SECONDS_TO_ANOTHER
                if now > self._since[place] + _SECONDS_TO_FORGIVE:
                    self._tries[place] = 1
            elif self._tries[place] < _TRIES and now >= self._not_before[place]:
                self._begin(place)

    def end(self) -> None:
        """All, at once. Where the cluster can't be reached they see by themselves that who leads is gone."""
        with suppress(OSError):
            for name in self._own(self._cluster.running()) if self._each else ():
                with suppress(OSError, RefusedRun):
                    self._cluster.kill(name)

    def _own(self, running: Collection[str], place: int | None = None) -> list[str]:
        """All of them, or that in one `place`, whichever try it is."""
        begin = f"{self._lead}{_SIGN}" + ("" if place is None else f"{place + 1}.")
        return [name for name in running if name.startswith(begin)]

    def _begin(self, place: int) -> None:
        """Who leads goes on without."""
        count, needs = self._each[place]
        # Nobody knows which of its names an earlier server has used.
        name = f"{self._lead}{_SIGN}{place + 1}.{secrets.token_hex(4)}"
        self._not_before[place], self._since[place] = time.monotonic() + _SECONDS_TO_ANOTHER, 0.0
        try:
            self._cluster.start(name, self._job, self._fence, needs, count)
            self._tries[place] += 1
        except RefusedRun as error:
            self._tries[place] = _TRIES
            _LOG.warning("%s won't have helpers for %s: %s", self._cluster.name, self._lead, error)
        except OSError as error:
            _LOG.warning("%s has no helpers for %s now: %s", self._cluster.name, self._lead, error)
