"""An API server of Kubernetes, as far as this product asks one, and a node that runs the Jobs.

A manifest is taken only where every field is one that the official client's model has, and of its type.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubernetes import client

_TYPES: Mapping[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": dict}


def check(value: Any, kind: str, path: str = "") -> None:
    """Raises ValueError where `value` isn't a `kind` of the client's, with where that is."""
    if inner := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            raise ValueError(f"{path}: no list")
        for number, one in enumerate(value):
            check(one, inner[1], f"{path}[{number}]")
    elif inner := re.fullmatch(r"[dD]ict[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{path}: no object")
        for name, one in value.items():
            check(one, inner[1], f"{path}.{name}")
    elif kind in _TYPES:
        if not isinstance(value, _TYPES[kind]) or (kind != "bool" and isinstance(value, bool)):
            raise ValueError(f"{path}: {value!r} is no {kind}")
    elif kind == "datetime":
        raise ValueError(f"{path}: not for who asks to say")
    else:
        model = getattr(client, kind)
        own = {theirs: name for name, theirs in model.attribute_map.items()}
        for name, one in value.items():
            if name not in own:
                raise ValueError(f"{path}.{name}: unknown to {kind}")
            check(one, model.openapi_types[own[name]], f"{path}.{name}")


class KubernetesApi:
    """`cpus`: what its node has. `queues`: whether a Job that is suspended stays so."""

    def __init__(self, cpus: float, folder: Path) -> None:
        self.cpus, self.queues = cpus, False
        # What its node has for labels, and of GPUs.
        self.labels, self.gpus = {"zone": "a"}, 0
        self.jobs = dict[str, dict[str, Any]]()
        self.processes = dict[str, subprocess.Popen[bytes]]()
        self.seen = list[dict[str, Any]]()
        self._folder, self._lock = folder, threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                with api._lock:
                    code, told = api.answer(self.command, self.path, body)
                data = json.dumps(told).encode()
                self.send_response(code, told.get("message", "") if code >= 400 else None)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("localhost", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def kubeconfig(self) -> Path:
        """A file that names it."""
        file = self._folder / "kubeconfig"
        named = {"cluster": "one", "user": "me", "namespace": "tuning"}
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": named}],
                    "clusters": [
                        {"name": "one", "cluster": {"server": f"http://localhost:{self._server.server_port}"}}
                    ],
                    "users": [{"name": "me", "user": {"token": "abc"}}],
                }
            )
        )
        return file

    def close(self) -> None:
        """It, and all that runs on its node."""
        self._server.shutdown()
        self._server.server_close()
        for process in self.processes.values():
            process.kill()

    def answer(self, verb: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """The status of HTTP, and what it says."""
        parts = urlsplit(path)
        selector = dict(
            one.partition("=")[::2]
            for one in parse_qs(parts.query).get("labelSelector", [""])[0].split(",")
            if one
        )
        name = parts.path.rpartition("/")[2]
        self._go_on()
        if parts.path == "/api/v1/nodes":
            return 200, {"items": [self._node()]}
        if re.fullmatch(r"/apis/batch/v1/namespaces/tuning/jobs", parts.path):
            if verb == "POST":
                return self._create(body)
            found = [one for one in self.jobs.values() if _fits(one["metadata"].get("labels", {}), selector)]
            return 200, {"items": found}
        if re.fullmatch(r"/apis/batch/v1/namespaces/tuning/jobs/[a-z0-9-]+", parts.path):
            if name not in self.jobs:
                return 404, {"message": "Not Found"}
            if verb == "DELETE":
                del self.jobs[name]
                return 200, {"status": "Success"}
            return 200, self.jobs[name]
        if parts.path == "/api/v1/namespaces/tuning/pods":
            wanted = selector["batch.kubernetes.io/job-name"]
            if verb == "DELETE":
                if process := self.processes.get(wanted):
                    process.kill()
                return 200, {"status": "Success"}
            return 200, {"items": [self._pod(wanted)] if wanted in self.jobs else []}
        return 404, {"message": f"Nothing at {parts.path}"}

    def _create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            check(body, "V1Job")
        except ValueError as error:
            return 422, {"message": str(error)}
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": "AlreadyExists"}
        self.seen.append(json.loads(json.dumps(body)))
        self.jobs[name] = {**body, "status": {}}
        self._go_on()
        return 201, self.jobs[name]

    def _go_on(self) -> None:
        """What has room begins, and what has ended is noted."""
        for name, job in self.jobs.items():
            process = self.processes.get(name)
            if process is not None and process.poll() is not None and not job["status"]:
                kind = "Failed" if process.returncode else "Complete"
                job["status"] = {"conditions": [{"type": kind, "status": "True"}]}
            if not self.queues:
                job["spec"]["suspend"] = False
            if process is None and self._has_room(job) and not job["spec"].get("suspend"):
                (container,) = job["spec"]["template"]["spec"]["containers"]
                assert container["command"] == ["python"]
                self.processes[name] = subprocess.Popen([sys.executable, *container["args"]])

    def _has_room(self, job: dict[str, Any]) -> bool:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        taken = sum(process.poll() is None for process in self.processes.values())
        return taken + float(container["resources"]["requests"]["cpu"]) <= self.cpus

    def _pod(self, name: str) -> dict[str, Any]:
        told = "0/1 nodes are available: 1 Insufficient cpu."
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": told}
        return {
            "metadata": {"name": f"{name}-0"},
            "status": {} if name in self.processes else {"conditions": [waits]},
        }

    def _node(self) -> dict[str, Any]:
        return {
            "metadata": {"name": "node-1", "labels": self.labels},
            "status": {
                "allocatable": {
                    "cpu": f"{self.cpus * 1000:g}m",
                    "memory": "16Gi",
                    "nvidia.com/gpu": str(self.gpus),
                },
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    def signal(self, number: signal.Signals) -> None:
        """To all that runs."""
        for process in self.processes.values():
            process.send_signal(number)


def _fits(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


@contextmanager
def kubernetes_api(cpus: float, folder: Path) -> Iterator[KubernetesApi]:
    """For so long."""
    made = KubernetesApi(cpus, folder)
    try:
        yield made
    finally:
        made.close()
