"""A Ray cluster of several raylets on this machine: nodes and head can be killed, frozen and let go again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from examples.local_server import free_port

# Of Ray's own: how soon a node that says nothing is taken for dead (some 3 s, for 15).
_QUICKLY = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}
_SMALL = ("--object-store-memory=157286400", "--min-worker-port=0", "--max-worker-port=0", "--block")
_SECONDS_TO_START = 60.0


class RayNode:
    """One, as `ray start` makes it; its processes see nothing of what is in `hidden`."""

    def __init__(self, folder: Path, *options: str, hidden: Path | None = None) -> None:
        self.log = folder / f"node-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(_without(hidden) if hidden else ()),
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", *_SMALL, *options),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RAY_TMPDIR": str(folder)},
                start_new_session=True,
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        while "Ray runtime started" not in self.log.read_text("utf-8", "replace"):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    @property
    def processes(self) -> list[psutil.Process]:
        """It, its raylet, and all that they have started."""
        with suppress(psutil.Error):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        for process in self.processes:
            with suppress(psutil.Error):
                process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does."""
        self.signal(signal.SIGKILL)
        self._process.wait()


def _without(directory: Path) -> Sequence[str]:
    """What begins a command that has a directory of its own in its place."""
    return "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(directory)


class RayNodes:
    """A head without room for anything, and nodes of one CPU each."""

    def __init__(self, count: int, folder: Path, hidden: Path | None = None) -> None:
        """`folder` has a short name: sockets lie in there. No node sees what is in `hidden`."""
        self._folder, self._port, self._hidden = folder, free_port(), hidden
        self.address = f"127.0.0.1:{self._port}"
        # Those whose head is gone, too.
        self._made = list[RayNode]()
        self._head = self._started_head()
        self.nodes = [self.add() for _ in range(count)]

    def add(self, *options: str) -> RayNode:
        """One more, with whatever else it has."""
        own = (f"--address={self.address}", "--node-ip-address=127.0.0.1", "--num-cpus=1")
        return self._note(RayNode(self._folder, *own, *options, hidden=self._hidden))

    @property
    def demands(self) -> list[tuple[dict[str, float], int]]:
        """What the autoscaler is told that there is no room for, and how many of each wait."""
        from ray.autoscaler.v2.sdk import get_cluster_status

        found: Any = get_cluster_status(self.address)
        return [
            (one.bundle, one.count)
            for demand in found.resource_demands.ray_task_actor_demand
            for one in demand.bundles_by_count
        ]

    def of(self, process: psutil.Process) -> RayNode:
        """The node that a process runs on."""
        return next(node for node in self.nodes if process in node.processes)

    def replace(self, node: RayNode) -> None:
        """One that dies, by another."""
        node.kill()
        self.nodes.remove(node)
        self.nodes.append(self.add())

    def restart_head(self) -> None:
        """Its machine is another one, at the same address, with as many new nodes; the old ones, who look for
        theirs, live on for a while."""
        self._head.kill()
        # Another machine wouldn't have it.
        (self._folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        self._head = self._started_head()
        self.nodes = [self.add() for _ in self.nodes]

    def close(self) -> None:
        """All of it ends."""
        for node in reversed(self._made):
            node.kill()

    def _started_head(self) -> RayNode:
        options = ("--head", f"--port={self._port}", "--node-ip-address=127.0.0.1", "--num-cpus=0")
        quickly = f"--system-config={json.dumps(_QUICKLY)}"
        return self._note(RayNode(self._folder, *options, "--include-dashboard=false", quickly))

    def _note(self, node: RayNode) -> RayNode:
        self._made.append(node)
        return node


@contextmanager
def ray_nodes(count: int, hidden: Path | None = None) -> Iterator[RayNodes]:
    """For so long."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        made = RayNodes(count, Path(folder), hidden)
        try:
            yield made
        finally:
            made.close()
