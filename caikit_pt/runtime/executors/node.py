"""A machine on which jobs are run."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of a machine, or what a job needs of one; memory in bytes. `gpu_memory`: of each of the GPUs; 0: nobody
    knows."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    gpu_memory: int = 0

    def fit_into(self, other: Resources) -> bool:
        """Whether `other` has as much of each."""
        have_room = not (self.gpus and other.gpu_memory) or self.gpu_memory <= other.gpu_memory
        return (
            have_room and self.cpus <= other.cpus and self.gpus <= other.gpus and self.memory <= other.memory
        )

    def __str__(self) -> str:
        gpus = [gpus_with(self.gpus, self.gpu_memory)] if self.gpus else []
        cpus = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        return ", ".join([*gpus, cpus, f"{self.memory / GIB:.1f} GiB"])


def size(one: Resources) -> tuple[bool, float, float, float, float]:
    """By which the largest is the one that a reason names: GPUs are what is short, and their memory."""
    return one.gpus > 0, one.gpu_memory, one.gpus, one.cpus, one.memory


def gpus_with(count: float, memory: int) -> str:
    """So many with so many bytes each, in words."""
    gpus = f"{count:g} GPU{'s' * (count != 1)}"
    return f"{gpus} with {memory / GIB:.1f} GiB{' each' * (count > 1)}" if memory else gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`free` is None where nobody tells what its jobs have left of it."""

    name: str
    lives: bool
    all: Resources
    free: Resources | None = None
    labels: tuple[str, ...] = ()
