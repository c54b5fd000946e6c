"""Jobs in processes of a cluster. They go on when the server ends, and the next one finds them again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.executors.cluster import Cluster
from caikit_pt.runtime.executors.cluster_run import ClusterRun, run_name
from caikit_pt.runtime.executors.executor import Executor
from caikit_pt.runtime.executors.gpu import needed_of_gpu
from caikit_pt.runtime.executors.helper_runs import HelperRuns, led_by
from caikit_pt.runtime.executors.link import SharedDirectory
from caikit_pt.runtime.executors.node import GIB, Node, Resources
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.executors.post import Post
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_folder import JobFolder

_LOG = logging.getLogger(__name__)
# Of a process of trainings, before a base model is there.
_LIBRARIES = 1 * GIB
_SECONDS_BETWEEN_SWEEPS = 15.0


class ClusterExecutor(Executor):
    """`each`: what each of so many `workers` of a training needs of its node; where its memory is 0, what the
    training is predicted to take. On one node are `workers_per_node` at the most; 0: all.
    `environment`: what processes have to see, on whatever node. `open_runs`: the jobs and numbers of runs
    that a server attends to, this one or another; raises StateUnavailable. `post`: what runs and the server
    tell each other goes through it; None: through a directory that both have."""

    outlives = True

    def __init__(
        self,
        cluster: Cluster,
        each: Resources,
        environment: Mapping[str, str],
        open_runs: Callable[[], Collection[tuple[str, int]]],
        workers: int = 1,
        workers_per_node: int = 0,
        post: Post | None = None,
    ) -> None:
        self._post = post
        self._cluster, self._each, self.environment = cluster, each, environment
        self._open_runs, self.workers = open_runs, workers
        self._together = min(workers, workers_per_node or workers)
        self.elsewhere = workers - self._together
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        """See Executor."""
        return self._closing.is_set()

    def start(self, prepared: bool) -> None:
        """See Executor."""
        threading.Thread(target=self._sweep, name="cluster", daemon=True).start()

    def why_not(self) -> str:
        """See Executor."""
        return self._cluster.why_not() or (self._post.why_not if self._post else "")

    def wait_until_ready(self) -> None:
        """See Executor."""
        if told := self.why_not():
            raise OSError(told)

    def place(self, job: Job, taken: Collection[int], promised: Mapping[int, int]) -> Placement:
        """See Executor. The cluster shows a run the GPUs that it has."""
        return Placement("cuda:0" if self._each.gpus else "cpu")

    def run_of(self, job: Job, folder: JobFolder) -> ClusterRun:
        """See Executor."""
        files = folder.run(job.fence)
        link = self._post.link(job, folder) if self._post else SharedDirectory(files)
        needs = self._needs(job, self._together)
        helpers = self._helpers(job, link.place)
        return ClusterRun(self._cluster, job, files, link, needs, helpers, lambda: self.closed)

    def found(self, job: Job, folder: JobFolder) -> ClusterRun | None:
        """See Executor."""
        if not job.is_open:
            return None
        run = self.run_of(job, folder)
        run.take_over()
        return run

    def nodes(self) -> Sequence[Node]:
        """See Executor."""
        return self._cluster.nodes()

    def close(self) -> None:
        """See Executor."""
        self._closing.set()
        self._cluster.close()

    def _helpers(self, job: Job, place: str) -> HelperRuns:
        """Those that aren't with who leads."""
        counts = [
            min(self._together, self.elsewhere - begun) for begun in range(0, self.elsewhere, self._together)
        ]
        each = [(count, self._needs(job, count)) for count in counts]
        return HelperRuns(self._cluster, run_name(job.id, job.fence), place, job.fence, each)

    def _needs(self, job: Job, count: int) -> Resources:
        """Of so many workers."""
        each = self._each
        # On a GPU the weights are in its memory.
        memory = each.memory or _LIBRARIES + (0 if each.gpus else job.memory)
        return Resources(
            cpus=count * each.cpus,
            gpus=count * each.gpus,
            memory=count * memory,
            gpu_memory=needed_of_gpu(job) if each.gpus else 0,
        )

    def _sweep(self) -> None:
        """Ends runs that nobody attends to, and removes what is left of them in a store: the cluster, or the
        store, couldn't be reached when they were given up."""
        running, posted = set[str](), set[tuple[str, int]]()
        while not self._closing.wait(_SECONDS_BETWEEN_SWEEPS):
            with suppress(OSError, StateUnavailable):
                running = self._end_strangers(running)
            with suppress(OSError, StateUnavailable):
                posted = self._remove_strangers(posted)

    def _end_strangers(self, seen: Collection[str]) -> set[str]:
        """Those that were `seen` before: whoever is new may just have been started. Which there are now."""
        attended = {run_name(*run) for run in self._open_runs()}
        found = {name for name in self._cluster.running() if led_by(name) not in attended}
        for name in found.intersection(seen):
            _LOG.warning("%s is ended in %s: nobody waits for it", name, self._cluster.name)
            self._cluster.kill(name)
        return found

    def _remove_strangers(self, seen: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        if self._post is None:
            return set()
        found = self._post.runs() - set(self._open_runs())
        for job, fence in found.intersection(seen):
            _LOG.info("what run %d of %s has put up is removed: nobody waits for it", fence, job)
            self._post.remove(job, fence)
        return found
