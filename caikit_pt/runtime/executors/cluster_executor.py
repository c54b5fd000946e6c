"""Jobs in processes of a cluster. They go on when the server ends, and the next one finds them again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.executors.cluster import Cluster
from caikit_pt.runtime.executors.cluster_run import ClusterRun, run_name
from caikit_pt.runtime.executors.executor import Executor
from caikit_pt.runtime.executors.gpu import needed_of_gpu
from caikit_pt.runtime.executors.node import GIB, Node, Resources
from caikit_pt.runtime.executors.placement import Placement
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_folder import JobFolder

_LOG = logging.getLogger(__name__)
# Of a process of trainings, before a base model is there.
_LIBRARIES = 1 * GIB
_SECONDS_BETWEEN_SWEEPS = 15.0


class ClusterExecutor(Executor):
    """`each`: what each of so many `workers` of a run, all on one node, needs of that; where its memory is 0,
    what the training is predicted to take. `environment`: what processes have to see, on whatever node.
    `open_runs`: the jobs and numbers of runs that a server attends to, this one or another; raises
    StateUnavailable."""

    outlives = True

    def __init__(
        self,
        cluster: Cluster,
        each: Resources,
        environment: Mapping[str, str],
        open_runs: Callable[[], Collection[tuple[str, int]]],
        workers: int = 1,
    ) -> None:
        self._cluster, self._each, self.environment = cluster, each, environment
        self._open_runs, self.workers = open_runs, workers
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
        return self._cluster.why_not()

    def wait_until_ready(self) -> None:
        """See Executor."""
        if told := self._cluster.why_not():
            raise OSError(told)

    def place(self, job: Job, taken: Collection[int], promised: Mapping[int, int]) -> Placement:
        """See Executor. The cluster shows a run the GPUs that it has."""
        return Placement("cuda:0" if self._each.gpus else "cpu")

    def run_of(self, job: Job, folder: JobFolder) -> ClusterRun:
        """See Executor."""
        return ClusterRun(self._cluster, job, folder.run(job.fence), self._needs(job), lambda: self.closed)

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

    def _needs(self, job: Job) -> Resources:
        count, each = self.workers, self._each
        # On a GPU the weights are in its memory.
        memory = each.memory or _LIBRARIES + (0 if each.gpus else job.memory)
        return Resources(
            cpus=count * each.cpus,
            gpus=count * each.gpus,
            memory=count * memory,
            gpu_memory=needed_of_gpu(job) if each.gpus else 0,
        )

    def _sweep(self) -> None:
        """Ends runs that nobody attends to: the cluster couldn't be reached when they were given up."""
        strangers = set[str]()
        while not self._closing.wait(_SECONDS_BETWEEN_SWEEPS):
            try:
                found = set(self._cluster.running())
                found -= {run_name(*run) for run in self._open_runs()}
                # Whoever is new may just have been started.
                for name in found & strangers:
                    _LOG.warning("%s is ended in %s: nobody waits for it", name, self._cluster.name)
                    self._cluster.kill(name)
                strangers = found
            except (OSError, StateUnavailable):
                continue
