"""A Ray cluster of several raylets on this machine, whose nodes can be killed, frozen and let go again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

# Of Ray's own: how soon a node that says nothing is taken for dead (3 s in all, for 15).
_QUICKLY = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 500}


class RayNodes:
    """A head without room for anything, and nodes of one CPU each."""

    def __init__(self, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        self._make: Any = Cluster
        # Those whose head is gone.
        self._left = list[Any]()
        self._cluster = self._head()
        self.nodes = [self.add() for _ in range(nodes)]

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._cluster.address)

    def add(self) -> Any:
        """One more."""
        return self._cluster.add_node(num_cpus=1)

    def processes(self, node: Any) -> list[psutil.Process]:
        """All of a node: the raylet, and what it has started."""
        found = []
        for infos in node.all_processes.values():
            for info in infos:
                with suppress(psutil.Error):
                    process = psutil.Process(info.process.pid)
                    found += [process, *process.children(recursive=True)]
        return found

    def of(self, process: psutil.Process) -> Any:
        """The node that a process runs on."""
        above = {one.pid for one in process.parents()}
        return next(node for node in self.nodes if above & {one.pid for one in self.processes(node)})

    def kill(self, node: Any) -> None:
        """As a power cut does."""
        self.signal(node, signal.SIGKILL)
        self.nodes.remove(node)

    def restart_head(self) -> None:
        """Its machine is another one, at the same address, with as many new nodes; the old ones, who look for
        theirs, live on for a while."""
        port = int(self.address.rpartition(":")[2])
        self.signal(self._cluster.head_node, signal.SIGKILL)
        self._left += self.nodes
        self._cluster = self._head(port=port)
        self.nodes = [self.add() for _ in self.nodes]

    def _head(self, **more: Any) -> Any:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": _QUICKLY, **more}
        return self._make(initialize_head=True, head_node_args=head)

    def signal(self, node: Any, number: signal.Signals) -> None:
        """To all of its processes."""
        for process in self.processes(node):
            with suppress(psutil.Error):
                process.send_signal(number)

    def close(self) -> None:
        """All of it ends."""
        for node in self._left:
            self.signal(node, signal.SIGKILL)
        for node in self.nodes:
            self.signal(node, signal.SIGCONT)
        self._cluster.shutdown()


@contextmanager
def ray_nodes(count: int) -> Iterator[RayNodes]:
    """For so long."""
    made = RayNodes(count)
    try:
        yield made
    finally:
        made.close()
