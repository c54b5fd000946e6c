"""How much memory is free, of the machine's or of the container's limit; and whether there was none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")
# What torch says, in a RuntimeError, where it has no error of its own: the allocator of the CPU, a tensor of
# more bytes than can be counted, and libraries of a GPU.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "enforce fail at alloc_cpu.cpp",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "Storage size calculation overflowed",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, the CPU included, has no more memory."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def free_memory_of(device: str) -> int:
    """Bytes that could still be taken of the memory of a `device` of torch."""
    return free_memory() if device == "cpu" else memory_of(device)[0]


def memory_of(device: str) -> tuple[int, int]:
    """Bytes of an accelerator that are free, whoever has the others, and all of them. Raises RuntimeError."""
    import torch

    free, memory = torch.get_device_module(device).mem_get_info(device)
    return int(free), int(memory)


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process could still take, of the CPU's memory."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit, used, told = (
            (cgroup / name).read_text().strip() for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:  # no limit that one could know of
        return available
    if limit == "max":
        return available
    # What was read of files, as weights were, counts as used, and is given back when there is no other.
    cached = dict(line.split(maxsplit=1) for line in told.splitlines()).get("inactive_file", "0")
    return min(available, max(0, int(limit) - int(used) + int(cached)))


def release_memory(device: torch.device | str) -> None:
    """Gives back what the allocator of `device` holds and nobody uses."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
