"""The GPUs of this machine, and what their memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caikit_pt.base_model.loading.memory import memory_of
from caikit_pt.runtime.executors.node import GIB
from caikit_pt.runtime.job import Job

# What CUDA and its libraries take for a process, before anything is there.
_LIBRARIES = GIB // 2


@dataclass(frozen=True, slots=True)
class Gpu:
    """That with this number among those that this process sees; memory in bytes."""

    number: int
    memory: int
    free: int


def needed_of_gpu(job: Job) -> int:
    """Bytes of each GPU that it is trained on; 0: nobody knows."""
    return job.least_memory and job.least_memory + _LIBRARIES


def visible_gpus() -> Sequence[Gpu]:
    """None where nobody can tell."""
    import torch

    found = []
    try:
        for number in range(torch.cuda.device_count()):
            free, memory = memory_of(f"cuda:{number}")
            found.append(Gpu(number, memory, free))
    except RuntimeError:  # a driver that doesn't answer is told of by the first training
        return ()
    return found
