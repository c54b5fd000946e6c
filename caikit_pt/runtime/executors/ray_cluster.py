"""A Ray cluster: an actor keeps each run, where Ray has room for it.

What waits for room is an actor that waits, which Ray's autoscaler sees.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from caikit_pt.runtime.executors.cluster import Cluster, RefusedRun
from caikit_pt.runtime.executors.node import MIB, Node, Resources, size

_LOG = logging.getLogger(__name__)
_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER = 60.0, 15.0
_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_TRIES = 1.0, 3.0
# What was seen counts for so long.
_SECONDS_SEEN = 10.0
# Ray itself labels each node with its id.
_NODE = "ray.io/node-id"
_DRIVER = "caikit_pt.runtime.executors.ray_driver"


class RayCluster(Cluster):
    """That at `address`, as ray.init takes it; runs are known in the namespace of one server's state. Nodes
    have to have `labels`."""

    name = "the Ray cluster"

    def __init__(
        self, address: str, namespace: str, token_file: str = "", labels: Mapping[str, str] | None = None
    ) -> None:
        self._address, self._namespace, self._labels = address, namespace, dict(labels or {})
        self._token_file = token_file
        self._driver: _Driver | None = None
        self._generation = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._why_not = f"{self.name} at {address} hasn't answered yet"
        self._seen: Mapping[str, Any] = {"runs": [], "nodes": []}
        self._seen_at = -_SECONDS_SEEN
        # When what was started lately was started; it may not have been seen yet.
        self._started: dict[str, float] = {}
        threading.Thread(target=self._look, name="ray", daemon=True).start()

    @property
    def generation(self) -> int:
        """See Cluster."""
        return self._generation

    def why_not(self) -> str:
        """See Cluster."""
        return self._why_not

    def start(self, name: str, job: str, fence: int, needs: Resources, helpers: int = 0) -> None:
        """See Cluster."""
        told = {"cpus": needs.cpus, "gpus": needs.gpus, "memory": needs.memory}
        told["gpu_memory_mib"], small = self._gpu_memory(needs)
        labels = {**self._labels, **({_NODE: f"!in({','.join(small)})"} if small else {})}
        what = {"job": job, "fence": fence, "helpers": helpers}
        self._ask("start", name=name, what=what, needs=told, labels=labels)
        with self._lock:
            self._started[name] = time.monotonic()

    def running(self) -> Collection[str]:
        """See Cluster."""
        with self._lock:
            self._check_seen()
            return {*self._seen["runs"], *self._started}

    def kill(self, name: str) -> None:
        """See Cluster."""
        self._ask("kill", name=name)
        with self._lock:
            self._started.pop(name, None)

    def why_waiting(self, name: str, needs: Resources) -> str:
        """See Cluster."""
        living = [node for node in self.nodes() if node.lives and self._suits(node)]
        labels = ", ".join(f"{label}={value}" for label, value in self._labels.items())
        wanted = f"It needs {needs}{' on a node with ' if labels else ''}{labels}"
        if not living:
            return f"{wanted}, and {self.name} has no such node."
        if not any(needs.fit_into(node.all) for node in living):
            largest = max((node.all for node in living), key=size)
            return f"{wanted}; the largest node of {self.name} has {largest}."
        free = [node.free for node in living if node.free]
        if not free:
            return f"{wanted}, and waits for room in {self.name}."
        largest = max(free, key=size)
        return f"{wanted}; the most that is free on a node of {self.name} is {largest}."

    def nodes(self) -> Sequence[Node]:
        """See Cluster."""
        with self._lock:
            self._check_seen()
            seen = self._seen["nodes"]
        return [
            Node(
                name=node["name"],
                lives=node["lives"],
                all=_resources(node["all"]),
                free=_free(node) if node["free"] else None,
                labels=tuple(node["labels"]),
            )
            for node in seen
        ]

    def close(self) -> None:
        """See Cluster."""
        self._closing.set()
        self._part()

    def _gpu_memory(self, needs: Resources) -> tuple[int, Sequence[str]]:
        """What of its GPUs' memory a node has to have free in all, in MiB, and the ids of nodes whose single
        GPUs have too little: Ray counts a node's resources together. Nothing where no node tells of it."""
        if not (needs.gpus and needs.gpu_memory):
            return 0, ()
        with self._lock:
            self._check_seen()
            told = {node["id"]: _resources(node["all"]) for node in self._seen["nodes"] if node["lives"]}
        known = {id: has.gpu_memory for id, has in told.items() if has.gpu_memory}
        if not known:
            return 0, ()
        small = sorted(id for id, memory in known.items() if memory < needs.gpu_memory)
        return math.ceil(needs.gpus) * math.ceil(needs.gpu_memory / MIB), small

    def _suits(self, node: Node) -> bool:
        return {f"{name}={value}" for name, value in self._labels.items()} <= set(node.labels)

    def _check_seen(self) -> None:
        """Raises OSError where nobody knows what there is now."""
        if time.monotonic() > self._seen_at + _SECONDS_SEEN:
            raise self._silence()

    def _silence(self) -> OSError:
        return OSError(self._why_not or f"{self.name} at {self._address} doesn't answer")

    def _ask(self, verb: str, **what: Any) -> Any:
        driver = self._driver
        if driver is None:
            raise self._silence()
        return driver.ask(verb, _SECONDS_TO_ANSWER, **what)

    def _look(self) -> None:
        while not self._closing.is_set():
            try:
                self._connect()
                while not self._closing.wait(_SECONDS_BETWEEN_LOOKS):
                    self._see()
            except Exception as error:  # whatever it is, the next try may be another
                told = f"{self.name} at {self._address} can't be reached: {error}"
                if not self._closing.is_set() and told != self._why_not:
                    _LOG.warning("%s", told, exc_info=not isinstance(error, OSError))
                self._why_not = told
                self._closing.wait(_SECONDS_BETWEEN_TRIES)
            finally:
                self._part()

    def _connect(self) -> None:
        self._driver = driver = _Driver(self._token_file)
        # Who closes it meanwhile may not have seen the driver.
        if self._closing.is_set():
            return
        driver.ask("connect", _SECONDS_TO_CONNECT, address=self._address, namespace=self._namespace)
        self._see()
        self._generation += 1
        self._why_not = ""
        _LOG.info("%s at %s answers", self.name, self._address)

    def _see(self) -> None:
        began = time.monotonic()
        seen = self._ask("look")
        with self._lock:
            self._seen, self._seen_at = seen, time.monotonic()
            # Where it was asked later it would be among them.
            self._started = {name: at for name, at in self._started.items() if at >= began}

    def _part(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()


class _Driver:
    """The process that is connected (ray_driver.py)."""

    def __init__(self, token_file: str) -> None:
        """Raises OSError."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file} if token_file else {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", _DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0"},
            process_group=0,
        )
        self._lock = threading.Lock()
        self._answers = queue.Queue[str]()
        self._last_words = ""
        for read in (self._listen, self._overhear):
            threading.Thread(target=read, name="ray driver", daemon=True).start()

    def ask(self, verb: str, seconds: float, **what: Any) -> Any:
        """Raises OSError where there is no answer by then, and the process is of no use; RefusedRun."""
        with self._lock:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps({"ask": verb, **what}) + "\n")
                self._process.stdin.flush()
                answer = json.loads(self._answers.get(timeout=seconds) or "null")
            except (queue.Empty, ValueError, OSError) as error:
                self.close()
                raise OSError(self._last_words or f"no answer ({type(error).__name__})") from error
            if answer is None:
                raise OSError(self._last_words or "it isn't there any more")
            if "error" in answer:
                raise (RefusedRun if answer["refused"] else OSError)(answer["error"])
            return answer.get("found")

    def close(self) -> None:
        """It ends."""
        with suppress(OSError):
            self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")
        self._process.wait()

    def _overhear(self) -> None:
        """What it says last may be why it has ended."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self._last_words = line.strip()[:500]


def _free(node: Mapping[str, Any]) -> Resources:
    """What is left of a node, and of one GPU at most."""
    left = int(node["free"]["gpu_memory_mib"] * MIB)
    return replace(_resources(node["free"]), gpu_memory=min(left, _resources(node["all"]).gpu_memory))


def _resources(told: Mapping[str, float]) -> Resources:
    """A node's GPUs are alike."""
    cpus, gpus, memory = told["cpus"], told["gpus"], int(told["memory"])
    of_each = int(told["gpu_memory_mib"] * MIB / gpus) if gpus else 0
    return Resources(cpus=cpus, gpus=gpus, memory=memory, gpu_memory=of_each)
