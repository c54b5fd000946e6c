"""The slots of a server: the jobs that are under way, each with its process and its place."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from caikit_pt.runtime.executors.executor import Run
from caikit_pt.runtime.executors.gpu import needed_of_gpu
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.job import RUNNING, Job


@dataclass(slots=True, eq=False)
class Slot:
    """A job from its start until its end is noted."""

    job: Job
    placement: Placement | None = None
    # The process that works at it.
    run: Run | None = None
    # It has been heard of.
    begun: bool = False
    # It has made an update: what it takes of its device isn't free any more.
    trains: bool = False
    canceled: bool = False
    # It is to stop behind a snapshot, until it is resumed.
    paused: bool = False
    # By another server, which may have been asked to resume it meanwhile.
    wished: bool = False
    # Its prompt waits to be published, and needs no device for that.
    trained: bool = False


class Slots:
    """`lock` guards every slot, too; who does several things at once holds it for so long."""

    def __init__(self, count: int) -> None:
        self.lock = threading.Condition()
        self._count = count
        self._taken: dict[str, Slot] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no slot is given away any more, since the server stops."""
        return self._closed

    @property
    def runs(self) -> Sequence[Run]:
        """The processes that work at jobs, the oldest first."""
        # Without the lock: who holds it may wait for a store that is away, and then they are given up.
        found = [slot.run for slot in list(self._taken.values()) if slot.run is not None]
        return list(dict.fromkeys(found))

    @property
    def gpus(self) -> Collection[int]:
        """Those that a job has for itself."""
        with self.lock:
            placements = [slot.placement for slot in self._taken.values()]
            return {gpu for one in placements if one is not None for gpu in one.gpus}

    @property
    def promised(self) -> Mapping[int, int]:
        """Bytes of GPUs, by their numbers, that are for jobs which don't have them yet."""
        found = Counter[int]()
        with self.lock:
            for slot in self._taken.values():
                if slot.placement is not None and not slot.trains:
                    found.update(dict.fromkeys(slot.placement.used, needed_of_gpu(slot.job)))
        return found

    def take(self, choose: Callable[[Sequence[str]], tuple[Job, Placement] | None]) -> Slot | None:
        """A slot for the job that `choose` finds, with its place, besides those with the ids it gets; None
        without either."""
        with self.lock:
            at_work = sum(not slot.trained for slot in self._taken.values())
            if self._closed or at_work >= self._count:
                return None
            chosen = choose(list(self._taken))
            if chosen is None:
                return None
            job, placement = chosen
            return self._taken.setdefault(job.id, Slot(job, placement, begun=job.state == RUNNING))

    def hold(self, job: Job, run: Run) -> None:
        """For a job that is under way already."""
        with self.lock:
            self._taken[job.id] = Slot(job, run=run, begun=job.state == RUNNING)

    def find(self, id: str) -> Slot | None:
        """That of the job with this id, while it is under way."""
        with self.lock:
            return self._taken.get(id)

    def of(self, run: Run) -> Sequence[Slot]:
        """Those that a process works at."""
        with self.lock:
            return [slot for slot in self._taken.values() if slot.run is run]

    def make_way(self, slot: Slot) -> None:
        """Another job may run now, though this one is under way."""
        with self.lock:
            slot.trained, slot.placement = True, None
            self.lock.notify_all()

    def free(self, slot: Slot) -> None:
        """The job is under way no longer."""
        with self.lock:
            self._taken.pop(slot.job.id, None)
            self.lock.notify_all()

    def close(self) -> bool:
        """No slot is given away any more; whether that is news."""
        with self.lock:
            news, self._closed = not self._closed, True
            self.lock.notify_all()
            return news

    def wake(self) -> None:
        """Whoever waits looks again."""
        with self.lock:
            self.lock.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something changes, or so long; not at all where they are closed."""
        with self.lock:
            if not self._closed:
                self.lock.wait(seconds)

    def wait_until_free(self, id: str, seconds: float) -> bool:
        """Until the job is under way no longer; whether that is so, after so long at most."""
        with self.lock:
            return self.lock.wait_for(lambda: id not in self._taken, seconds)

    def wait_until_empty(self, seconds: float) -> bool:
        """Until no job is under way; whether that is so, after so long at most."""
        with self.lock:
            return self.lock.wait_for(lambda: not self._taken, seconds)
