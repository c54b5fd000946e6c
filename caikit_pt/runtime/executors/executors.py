"""The executor that the settings name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

from caikit_pt.errors import InvalidParameter, StateUnavailable
from caikit_pt.runtime.executors.cluster import Cluster
from caikit_pt.runtime.executors.cluster_executor import ClusterExecutor
from caikit_pt.runtime.executors.exchange import Exchange
from caikit_pt.runtime.executors.executor import Executor
from caikit_pt.runtime.executors.fork_server import NATIVE_CACHES
from caikit_pt.runtime.executors.kubernetes_cluster import KubernetesCluster
from caikit_pt.runtime.executors.kubernetes_job import JobTemplate, pod_in
from caikit_pt.runtime.executors.local import LocalExecutor
from caikit_pt.runtime.executors.node import MIB, Resources
from caikit_pt.runtime.executors.post import Post
from caikit_pt.runtime.executors.ray_cluster import RayCluster
from caikit_pt.runtime.state_id import state_id
from caikit_pt.settings import Settings, as_set

LOCAL, RAY, KUBERNETES = "local", "ray", "kubernetes"
# Runs that a cluster is asked for at the same time; it has them wait for room.
_SLOTS_OF_A_CLUSTER = 64
_CACHE = "cache"


def check(now: Settings) -> list[str]:
    """What is doubtful about the executor. Raises InvalidParameter for one that can't be."""
    named = now.executor
    doubts = _doubts_of_workers(now)
    if named.kind == LOCAL:
        doubts += [
            f"executor.{name} counts for nothing with executor.kind: {LOCAL}"
            for name in ("exchange", "workers_per_node")
            if getattr(named, name)
        ]
        return doubts
    _check_exchange(named.exchange)
    if find_spec(named.kind) is None:
        allowed = f"{LOCAL}, or pip install 'caikit-pt[{named.kind}]'"
        raise InvalidParameter(as_set("executor.kind"), named.kind, allowed)
    if named.kind == RAY and named.token_file and not Path(named.token_file).is_file():
        raise InvalidParameter(
            as_set("executor.token_file"), named.token_file, "a file that is there, or unset"
        )
    if named.kind == KUBERNETES:
        try:
            pod_in(Path(named.pod_template))
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            allowed = f"a file with a PodTemplateSpec ({told})"
            raise InvalidParameter(as_set("executor.pod_template"), named.pod_template, allowed) from None
    return ["join_trainings counts for nothing in a cluster"] if now.join_trainings else doubts


def _check_exchange(address: str) -> None:
    """What it is set to is told nowhere: there may be a secret in it. Raises InvalidParameter."""
    if not address:
        return
    try:
        Exchange(address)
    except ImportError as error:
        allowed = f"unset, or pip install 'caikit-pt[s3]' for s3://, here and on every node ({error})"
    except ValueError as error:
        allowed = f"unset, or {error}"
    else:
        return
    raise InvalidParameter(as_set("executor.exchange"), "what it is set to", allowed)


def _doubts_of_workers(now: Settings) -> list[str]:
    """Raises InvalidParameter for more than this machine has GPUs."""
    workers, is_local = now.executor.workers, now.executor.kind == LOCAL
    if workers == 1:
        return []
    gpus, processors = _gpus() if is_local and now.device != "cpu" else 0, os.cpu_count() or 1
    if gpus and workers > gpus:
        allowed = f"at most {gpus}, the GPUs of this machine; or device: cpu"
        raise InvalidParameter(as_set("executor.workers"), workers, allowed)
    doubts = []
    if now.join_trainings:
        doubts.append("join_trainings counts for nothing with executor.workers: each training has its own")
    if is_local and not gpus and workers > processors:
        doubts.append(f"executor.workers is {workers}, and this machine has {processors} processors")
    return doubts


def executor_of(
    now: Settings, root: Path, open_runs: Callable[[], Collection[tuple[str, int]]]
) -> tuple[Executor, int]:
    """It, and how many jobs it runs at the same time. `root` is the directory of the server's state,
    `open_runs` tells of the runs that a server attends to. Raises StateUnavailable where that directory can't
    be written, or nobody says which cluster is meant."""
    named = now.executor
    if named.kind == LOCAL:
        slots = now.slots or max(1, _gpus() // named.workers)
        return LocalExecutor(now.join_trainings, named.workers), slots
    each = Resources(cpus=named.cpus, gpus=named.gpus, memory=named.memory_mib * MIB)
    try:
        id = state_id(root)
        post = Post(named.exchange, id, root / _CACHE) if named.exchange else None
        cluster, environment = _cluster(now, id), _environment(now, root)
        made = ClusterExecutor(
            cluster, each, environment, open_runs, named.workers, named.workers_per_node, post
        )
        return made, now.slots or _SLOTS_OF_A_CLUSTER
    except OSError as error:
        raise StateUnavailable(f"No trainings can be run by {named.kind}: {error}") from error


def _cluster(now: Settings, id: str) -> Cluster:
    named = now.executor
    if named.kind == RAY:
        return RayCluster(named.address, f"caikit_pt-{id}", named.token_file, named.node_labels)
    template = JobTemplate(id, pod_in(Path(named.pod_template)), named.queue, named.node_labels)
    return KubernetesCluster(template, named.namespace)


def _environment(now: Settings, root: Path) -> Mapping[str, str]:
    """A training that moves to another node of the same kind ends with the same bits there: threads and
    kernels are the same, and what was found to be the fastest on one isn't tried for again on the next."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(now.executor.cpus)))
    kernel = {"LINEAR_KERNEL": now.linear_kernel} if now.linear_kernel else {}
    waits = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    own = {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": waits,
        "CACHE_DIR": str((root / _CACHE).absolute()),
    }
    return {**NATIVE_CACHES, **own, **kernel}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
