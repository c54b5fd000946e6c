"""The server as it is started, with memory for one of the base models at a time; "large" never has room.

Its output has a line for each that is loaded.
"""

from __future__ import annotations

from typing import Any

from caikit_pt.base_model import pool
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.loading.work import weight_bytes
from caikit_pt.runtime import room
from caikit_pt.runtime.launcher import serve

BYTES = 6_000_000
LARGE, LARGE_BYTES = "large", 20_000_000
SECONDS_UNASKED = 1.0
_load = pool.load


def free(device: str) -> int:
    """What those in memory leave."""
    return BYTES - sum(weight_bytes(one.checkpoint, "float32") for one in pool.POOL.models)


def needed(checkpoint: Checkpoint, dtype: str) -> int:
    """What its weights take."""
    return LARGE_BYTES if checkpoint.name == LARGE else weight_bytes(checkpoint, dtype)


def load(checkpoint: Checkpoint, dtype: str, device: str) -> Any:
    """As the pool does."""
    base = _load(checkpoint, dtype, device)
    print(f"loaded {checkpoint.name}", flush=True)
    return base


if __name__ == "__main__":
    pool.free_memory_of, pool.weight_bytes, pool.load = free, needed, load  # type: ignore[attr-defined]
    room.SECONDS_UNASKED = SECONDS_UNASKED
    serve()
