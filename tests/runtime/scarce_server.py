"""The server as it is started, with memory for one of the base models at a time."""

from __future__ import annotations

from caikit_pt.base_model import pool
from caikit_pt.base_model.loading.work import weight_bytes
from caikit_pt.runtime.launcher import serve

BYTES = 6_000_000


def free(device: str) -> int:
    """What those in memory leave."""
    return BYTES - sum(weight_bytes(one.checkpoint, "float32") for one in pool.POOL.models)


if __name__ == "__main__":
    pool.free_memory_of = free  # type: ignore[attr-defined]
    serve()
