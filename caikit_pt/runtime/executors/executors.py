"""The executor that the settings name."""

from __future__ import annotations

import uuid
from pathlib import Path

from caikit_pt.runtime.executors.cluster_executor import ClusterExecutor
from caikit_pt.runtime.executors.executor import Executor
from caikit_pt.runtime.executors.local import LocalExecutor
from caikit_pt.runtime.executors.node import MIB, Resources
from caikit_pt.runtime.executors.ray_cluster import RayCluster
from caikit_pt.settings import Settings

# Runs that a cluster is asked for at the same time; it has them wait for room.
_SLOTS_OF_A_CLUSTER = 64


def executor_of(now: Settings, root: Path) -> tuple[Executor, int]:
    """It, and how many jobs it runs at the same time. `root` is the directory of the server's state. Raises
    OSError where that can't be written."""
    named = now.executor
    if named.kind == "local":
        return LocalExecutor(now.join_trainings), now.slots or _gpus() or 1
    cluster = RayCluster(named.address, f"caikit_pt-{_id(root)}", named.token_file, named.node_labels)
    each = Resources(cpus=named.cpus, gpus=named.gpus, memory=named.memory_mib * MIB)
    return ClusterExecutor(cluster, each), now.slots or _SLOTS_OF_A_CLUSTER


def _id(root: Path) -> str:
    """By which a cluster tells this server's runs from those of others."""
    file = root / "cluster_id"
    if not file.exists():
        file.write_text(uuid.uuid4().hex, "utf-8")
    return file.read_text("utf-8").strip()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
