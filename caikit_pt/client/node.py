"""The machines on which a server's trainings are run, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: what it has and what of it is free, None where nobody knows; memory in bytes."""

    name: str
    lives: bool
    cpus: float
    gpus: float
    memory_bytes: int
    free_cpus: float | None
    free_gpus: float | None
    free_memory_bytes: int | None
    labels: Sequence[str]
    # Of each of its GPUs, of the largest where they differ; 0: nobody knows.
    gpu_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Nodes:
    """`executor` is what runs trainings, `problem` why it can't now; so many run and wait."""

    executor: str
    problem: str
    running: int
    queued: int
    nodes: Sequence[Node]


def as_nodes(message: Any) -> Nodes:
    """A message ListNodesResponse."""
    return Nodes(
        executor=message.executor,
        problem=message.problem,
        running=message.running,
        queued=message.queued,
        nodes=[_node(one) for one in message.nodes],
    )


def _node(message: Any) -> Node:
    plain = ("name", "lives", "cpus", "gpus", "memory_bytes", "gpu_memory_bytes")
    free = ("free_cpus", "free_gpus", "free_memory_bytes")
    known: dict[str, Any] = {
        name: getattr(message, name) if message.HasField(name) else None for name in free
    }
    return Node(
        **{name: getattr(message, name) for name in plain},
        **known,
        labels=list(message.labels),
    )
