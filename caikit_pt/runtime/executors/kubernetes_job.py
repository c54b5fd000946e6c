"""The Job of a run, as Kubernetes takes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from caikit_pt.runtime.executors.node import MIB, Resources

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
SERVER, RUN = "caikit-pt.io/server", "caikit-pt.io/run"
GPU = "nvidia.com/gpu"
# MiB of each, where NVIDIA's GPU feature discovery tells:
# https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery#generated-labels
GPU_MEMORY = "nvidia.com/gpu.memory"
# https://kueue.sigs.k8s.io/docs/tasks/run/jobs/
_QUEUE = "kueue.x-k8s.io/queue-name"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_KEEPER = "caikit_pt.runtime.executors.keeper"
_HELPER_KEEPER = "caikit_pt.runtime.executors.helper_keeper"
# A run leaves behind a snapshot within some seconds.
_SECONDS_TO_LEAVE = 30
# A Job that has ended can be looked at for so long.
_SECONDS_KEPT = 3600


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """Jobs that are known by the label `server`, of pods as `pod` (a PodTemplateSpec) has them: image,
    volumes, tolerations. What a run needs, and the `labels` that a node has to have, are added. `queue` is a
    LocalQueue of Kueue; empty: without Kueue."""

    server: str
    pod: Mapping[str, Any]
    queue: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def name(self, run: str) -> str:
        """As Kubernetes takes one, whatever the id of a job is."""
        return f"caikit-pt-{hashlib.sha256(f'{self.server}/{run}'.encode()).hexdigest()[:24]}"

    def job(self, run: str, place: str, fence: int, needs: Resources, helpers: int = 0) -> dict[str, Any]:
        """The manifest of the Job of one `run`, whose job is at `place`; its first container keeps it, or so
        many `helpers`."""
        keeper = ["-m", _HELPER_KEEPER if helpers else _KEEPER, place, str(fence)]
        labels = {SERVER: self.server, **({_QUEUE: self.queue} if self.queue else {})}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name(run), "labels": labels, "annotations": {RUN: run}},
            "spec": {
                # What has ended is begun again by the server, with another number.
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": _SECONDS_KEPT,
                # Kueue lets it begin.
                **({"suspend": True} if self.queue else {}),
                "template": self._pod([*keeper, *([str(helpers)] if helpers else [])], needs),
            },
        }

    def _pod(self, arguments: list[str], needs: Resources) -> dict[str, Any]:
        made = deepcopy(dict(self.pod))
        metadata, spec = dict(made.get("metadata") or {}), dict(made["spec"])
        metadata["labels"] = {**(metadata.get("labels") or {}), SERVER: self.server}
        spec |= {"restartPolicy": "Never"}
        spec.setdefault("terminationGracePeriodSeconds", _SECONDS_TO_LEAVE)
        if self.labels:
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **self.labels}
        if needs.gpus and needs.gpu_memory:
            spec["affinity"] = _with_gpu_memory(spec.get("affinity") or {}, needs.gpu_memory)
        first, *others = spec["containers"]
        keeper = {"command": ["python"], **first, "args": arguments}
        keeper["resources"] = _resources(first.get("resources") or {}, needs)
        spec["containers"] = [keeper, *others]
        return {"metadata": metadata, "spec": spec}


def pod_in(file: Path) -> Mapping[str, Any]:
    """The PodTemplateSpec in a file, or that of a PodTemplate. Raises OSError, and ValueError for neither."""
    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"it isn't YAML: {error}".partition("\n")[0]) from None
    if isinstance(found, Mapping) and found.get("kind") == "PodTemplate":
        found = found.get("template")
    spec = found.get("spec") if isinstance(found, Mapping) else None
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    if not isinstance(containers, list) or not containers or not isinstance(containers[0], Mapping):
        raise ValueError("it has no spec.containers")
    if not containers[0].get("image"):
        raise ValueError("its first container has no image")
    return {"metadata": found.get("metadata") or {}, "spec": spec}


def _with_gpu_memory(given: Mapping[str, Any], least: int) -> dict[str, Any]:
    """The affinity of a template, for nodes whose GPUs have as much, or that don't tell, alone."""
    nodes = dict(given.get("nodeAffinity") or {})
    required = dict(nodes.get(_REQUIRED) or {})
    # A whole number that is exceeded.
    enough = {"key": GPU_MEMORY, "operator": "Gt", "values": [str(math.ceil(least / MIB) - 1)]}
    untold = {"key": GPU_MEMORY, "operator": "DoesNotExist"}
    # One of the terms has to be so, and in it all.
    required["nodeSelectorTerms"] = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), one]}
        for term in required.get("nodeSelectorTerms") or [{}]
        for one in (enough, untold)
    ]
    return {**given, "nodeAffinity": {**nodes, _REQUIRED: required}}


def _resources(given: Mapping[str, Any], needs: Resources) -> dict[str, Any]:
    """What the template asks for, and over it what a run needs."""
    gpus = {GPU: f"{needs.gpus:g}"} if needs.gpus else {}
    requests = {"cpu": f"{needs.cpus:g}", "memory": str(needs.memory), **gpus}
    return {
        **given,
        "requests": {**(given.get("requests") or {}), **requests},
        "limits": {**(given.get("limits") or {}), **gpus},
    }
