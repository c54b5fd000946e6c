"""Jobs in processes of this machine, copies of one that is ready. They end with the server."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from socket import gethostname

from caikit_pt.runtime.executors.child import Child
from caikit_pt.runtime.executors.executor import Executor
from caikit_pt.runtime.executors.fork_server import ForkServer
from caikit_pt.runtime.executors.gpu import visible_gpus
from caikit_pt.runtime.executors.node import Node, Resources
from caikit_pt.runtime.executors.placement import Placement, is_gpu, placed
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_process import THREADS


class LocalExecutor(Executor):
    """`joins`: whether trainings of one base model share a process. `workers`: how many processes share the
    updates of one; then each has its own."""

    def __init__(self, joins: bool, workers: int = 1) -> None:
        self.joins, self.workers = joins and workers == 1, workers
        # Each would take all processors for itself.
        if workers > 1 and THREADS not in os.environ:
            self.environment = {THREADS: str(max(1, (os.cpu_count() or 1) // workers))}
        self._forks = ForkServer()

    @property
    def closed(self) -> bool:
        """See Executor."""
        return self._forks.closed

    def start(self, prepared: bool) -> None:
        """See Executor."""
        if prepared:
            self._forks.prepare()

    def why_not(self) -> str:
        """See Executor."""
        return ""

    def wait_until_ready(self) -> None:
        """See Executor."""
        self._forks.wait_until_ready()

    def place(self, job: Job, taken: Collection[int], promised: Mapping[int, int]) -> Placement:
        """See Executor."""
        gpus = visible_gpus() if is_gpu(str(job.parameters["device"])) else ()
        left = [replace(gpu, free=gpu.free - promised.get(gpu.number, 0)) for gpu in gpus]
        return placed(job, taken, self.joins, self.workers, left)

    def run_of(self, job: Job, folder: JobFolder) -> Child:
        """See Executor."""
        return Child(self._forks)

    def found(self, job: Job, folder: JobFolder) -> None:
        """None goes on without its server."""

    def nodes(self) -> Sequence[Node]:
        """See Executor."""
        import torch

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        largest = max((gpu.memory for gpu in visible_gpus()), default=0)
        gpus, cpus = torch.cuda.device_count(), os.cpu_count() or 1
        found = Resources(cpus=cpus, gpus=gpus, memory=memory, gpu_memory=largest)
        return [Node(name=gethostname(), lives=True, all=found)]

    def close(self) -> None:
        """See Executor."""
        self._forks.close()
