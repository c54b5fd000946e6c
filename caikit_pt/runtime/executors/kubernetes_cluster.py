"""A Kubernetes cluster: a Job with one pod keeps each run, where the scheduler, or Kueue, has room for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.kubernetes_job import GPU, GPU_MEMORY, RUN, SERVER, JobTemplate
from caikit_pt.runtime.executors.node import MIB, Node, Resources, size

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SECONDS_TO_ANSWER = 10.0
_SECONDS_SEEN, _SECONDS_BETWEEN_TRIES = 1.0, 5.0
_UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "m": 1e-3,
}


class KubernetesCluster(Cluster):
    """Has Jobs as `template` makes them in `namespace`; empty: that of the server's own pod, or default."""

    name = "the Kubernetes cluster"

    def __init__(self, template: JobTemplate, namespace: str = "") -> None:
        """Raises OSError where nobody says which cluster it is."""
        self._template, self._namespace = template, namespace or _own_namespace()
        self._client = _client()
        self._lock = threading.Lock()
        self._seen: tuple[float, set[str]] = -_SECONDS_SEEN, set()
        self._tried: tuple[float, str] = -_SECONDS_BETWEEN_TRIES, ""

    def why_not(self) -> str:
        """See Cluster."""
        at, told = self._tried
        if time.monotonic() < at + _SECONDS_BETWEEN_TRIES:
            return told
        try:
            self.running()
            told = ""
        except OSError as error:
            told = f"{self.name} can't be reached: {error}"
        self._tried = time.monotonic(), told
        return told

    @property
    def generation(self) -> int:
        """See Cluster. What it knows outlasts it."""
        return 0

    def start(self, name: str, job: str, fence: int, needs: Resources, helpers: int = 0) -> None:
        """See Cluster."""
        with self._lock, _errors():
            self._seen = -_SECONDS_SEEN, set()
            self._client.BatchV1Api().create_namespaced_job(
                self._namespace,
                self._template.job(name, job, fence, needs, helpers),
                _request_timeout=_SECONDS_TO_ANSWER,
            )

    def running(self) -> Collection[str]:
        """See Cluster."""
        with self._lock:
            at, names = self._seen
            if time.monotonic() < at + _SECONDS_SEEN:
                return set(names)
            with _errors():
                found = self._client.BatchV1Api().list_namespaced_job(
                    self._namespace,
                    label_selector=f"{SERVER}={self._template.server}",
                    _request_timeout=_SECONDS_TO_ANSWER,
                )
            names = {(one.metadata.annotations or {}).get(RUN, "") for one in found.items if _goes_on(one)}
            self._seen = time.monotonic(), names
            return set(names)

    def kill(self, name: str) -> None:
        """See Cluster."""
        job = self._template.name(name)
        with self._lock, _errors(gone=True):
            self._seen = -_SECONDS_SEEN, set()
            # Not at its leisure: a pod would have its grace.
            self._client.CoreV1Api().delete_collection_namespaced_pod(
                self._namespace,
                label_selector=f"batch.kubernetes.io/job-name={job}",
                grace_period_seconds=0,
                _request_timeout=_SECONDS_TO_ANSWER,
            )
            self._client.BatchV1Api().delete_namespaced_job(
                job, self._namespace, propagation_policy="Background", _request_timeout=_SECONDS_TO_ANSWER
            )

    def why_waiting(self, name: str, needs: Resources) -> str:
        """See Cluster."""
        made = self._template.name(name)
        with _errors():
            job = self._client.BatchV1Api().read_namespaced_job(
                made, self._namespace, _request_timeout=_SECONDS_TO_ANSWER
            )
            pods = self._client.CoreV1Api().list_namespaced_pod(
                self._namespace,
                label_selector=f"batch.kubernetes.io/job-name={made}",
                _request_timeout=_SECONDS_TO_ANSWER,
            )
        if job.spec.suspend:
            return f"It needs {needs}, and waits in the queue {self._template.queue} of Kueue."
        told = next(filter(None, map(_trouble, pods.items)), "")
        return f"It needs {needs}: {told.rstrip('.')}.{self._largest(needs)}" if told else ""

    def _largest(self, needs: Resources) -> str:
        """Where none of its nodes could ever have it. Raises OSError."""
        living = [node.all for node in self.nodes() if node.lives]
        if not living or any(needs.fit_into(one) for one in living):
            return ""
        largest = max(living, key=size)
        return f" The largest node of {self.name} has {largest}."

    def nodes(self) -> Sequence[Node]:
        """See Cluster. What is free, nobody tells."""
        with _errors():
            found = self._client.CoreV1Api().list_node(_request_timeout=_SECONDS_TO_ANSWER)
        return [
            Node(
                name=node.metadata.name,
                lives=any(
                    one.type == "Ready" and one.status == "True" for one in node.status.conditions or ()
                ),
                all=_resources(node.status.allocatable or {}, node.metadata.labels or {}),
                labels=tuple(f"{name}={value}" for name, value in (node.metadata.labels or {}).items()),
            )
            for node in found.items
        ]

    def close(self) -> None:
        """See Cluster."""


def _resources(told: Mapping[str, str], labels: Mapping[str, str]) -> Resources:
    of_each = labels.get(GPU_MEMORY, "")
    return Resources(
        cpus=_quantity(told.get("cpu", "0")),
        gpus=_quantity(told.get(GPU, "0")),
        memory=int(_quantity(told.get("memory", "0"))),
        gpu_memory=int(of_each) * MIB if of_each.isdecimal() else 0,
    )


def _quantity(text: str) -> float:
    """https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/"""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)


def _goes_on(job: Any) -> bool:
    ended = any(
        one.type in ("Complete", "Failed") and one.status == "True" for one in job.status.conditions or ()
    )
    return not ended and job.metadata.deletion_timestamp is None


def _trouble(pod: Any) -> str:
    """Why a pod doesn't run."""
    for one in pod.status.conditions or ():
        if one.type == "PodScheduled" and one.status != "True":
            return str(one.message or one.reason or "")
    for one in pod.status.container_statuses or ():
        if one.state and one.state.waiting:
            return ": ".join(filter(None, (one.state.waiting.reason, one.state.waiting.message)))
    return ""


def _client() -> Any:
    """Of the cluster that this runs in, or of the kubeconfig. Raises OSError."""
    from kubernetes import client
    from kubernetes import config as imported

    config: Any = imported
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise OSError(f"neither a pod's account nor a kubeconfig is there: {error}") from None
    found = client.Configuration.get_default_copy()
    # The server tries again, and says so.
    found.retries = False
    client.Configuration.set_default(found)
    return client


def _own_namespace() -> str:
    try:
        return _NAMESPACE.read_text("utf-8").strip()
    except OSError:
        return "default"


@contextmanager
def _errors(gone: bool = False) -> Iterator[None]:
    """Raises OSError for whatever the cluster or the way to it fails with, RefusedRun for what it won't have;
    nothing for what is `gone`."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status in (400, 422):
            raise RefusedRun(f"{error.status} {error.reason}") from None
        if not (gone and error.status == 404):
            raise OSError(f"{error.status} {error.reason}") from None
    except HTTPError as error:
        raise OSError(f"no answer ({type(error).__name__})") from None
