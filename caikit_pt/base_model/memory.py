"""How much memory is free: the machine's, or what is left of the container's limit."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process could still take, of the CPU's memory."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:  # no limit that one could know of
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
