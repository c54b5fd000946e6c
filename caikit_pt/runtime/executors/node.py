"""A machine on which jobs are run."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of a machine, or what a job needs of one; memory in bytes."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0

    def fit_into(self, other: Resources) -> bool:
        """Whether `other` has as much of each."""
        return self.cpus <= other.cpus and self.gpus <= other.gpus and self.memory <= other.memory

    def __str__(self) -> str:
        gpus = [f"{self.gpus:g} GPU{'s' * (self.gpus != 1)}"] if self.gpus else []
        cpus = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        return ", ".join([*gpus, cpus, f"{self.memory / GIB:.1f} GiB"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`free` is None where nobody tells what its jobs have left of it."""

    name: str
    lives: bool
    all: Resources
    free: Resources | None = None
    labels: tuple[str, ...] = ()
