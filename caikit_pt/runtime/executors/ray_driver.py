"""Asks a Ray cluster on behalf of the server: `python -m caikit_pt.runtime.executors.ray_driver`.

A process of its own, since a driver dies with the Ray node that it is connected to. A JSON object a line:
what is asked on stdin, answers on stdout, in turn. The first says where the cluster is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

# What operators call the MiB of all GPUs of a node together: Ray itself counts none.
GPU_MEMORY = "gpu_memory_mib"
# Ray sees to nothing when what it started ends: the server does.
_ONCE = {"max_restarts": 0, "lifetime": "detached", "max_concurrency": 1}


class Keeper:
    """On a node: keeps the process of one run, or `helpers` of it, and ends with it."""

    def __init__(self, job: str, fence: int, helpers: int) -> None:
        # A constructor is run whether or not the driver lives by then; a method wouldn't be.
        threading.Thread(target=self._keep, args=(job, fence, helpers), name="keeper", daemon=True).start()

    def _keep(self, job: str, fence: int, helpers: int) -> None:
        try:
            from caikit_pt.runtime.executors.helper_keeper import keep_helpers
            from caikit_pt.runtime.executors.keeper import keep

            if helpers:
                keep_helpers(job, fence, helpers)
            else:
                keep(job, fence)
        except BaseException as error:
            # Nobody else hears of it; the package itself may not be there.
            if helpers:
                traceback.print_exc()
            else:
                _tell(job, fence, json.dumps({"code": 1, "text": f"{type(error).__name__}: {error}"}))
        finally:
            os._exit(0)


def _tell(job: str, fence: int, end: str) -> None:
    """Of a run: in its folder, or in the store that has it (exchange.py)."""
    if "://" not in job:
        (Path(job) / "runs" / f"{fence:06}" / "end.json").write_text(end)
        return
    import fsspec

    fsspec.filesystem(job.partition("://")[0]).pipe_file(f"{job}/{fence:06}/end", end.encode())


class Driver:
    """Connected to the cluster at `address`; its runs are known by their names in `namespace`."""

    def __init__(self, address: str, namespace: str) -> None:
        import ray as imported

        ray: Any = imported

        self._ray = ray
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": _paths()},
        )
        self._keeper = ray.remote(Keeper)

    def start(
        self, name: str, what: Mapping[str, Any], needs: Mapping[str, float], labels: Mapping[str, str]
    ) -> None:
        """Begins a run, `what` of which a Keeper is told, as soon as there is room."""
        selector = {"label_selector": dict(labels)} if labels else {}
        self._keeper.options(
            name=name,
            num_cpus=needs["cpus"],
            num_gpus=needs["gpus"],
            memory=needs["memory"],
            resources={GPU_MEMORY: needs["gpu_memory_mib"]} if needs["gpu_memory_mib"] else {},
            **selector,
            **_ONCE,
        ).remote(**what)

    def kill(self, name: str) -> None:
        """Ends it, wherever it is."""
        try:
            actor = self._ray.get_actor(name)
        except ValueError:
            return
        self._ray.kill(actor)

    def look(self) -> dict[str, Any]:
        """The names of runs, and the nodes."""
        free = _free()
        nodes = [
            {
                "id": node["NodeID"],
                "name": node["NodeName"],
                "lives": node["Alive"],
                "all": _resources(node["Resources"]),
                "free": _resources(free[node["NodeID"]]) if node["NodeID"] in free else None,
                "labels": [f"{name}={value}" for name, value in node.get("Labels", {}).items()],
            }
            for node in self._ray.nodes()
        ]
        return {"runs": self._ray.util.list_named_actors(), "nodes": nodes}


def _free() -> Mapping[str, Mapping[str, float]]:
    """Of each node, by its id; nobody else tells, and a release of Ray may have it elsewhere."""
    try:
        from ray._private import state

        found: dict[str, Any] = cast(Any, state).available_resources_per_node()
        return found
    except Exception:
        return {}


def _resources(found: Mapping[str, float]) -> dict[str, float]:
    names = {"cpus": "CPU", "gpus": "GPU", "memory": "memory", "gpu_memory_mib": GPU_MEMORY}
    return {own: found.get(theirs, 0.0) for own, theirs in names.items()}


def _paths() -> dict[str, str]:
    """Where nodes find this package, where it isn't installed."""
    return {name: os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)}


def main() -> None:
    """Whatever fails is told, with what was asked."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Ray prints.
    os.dup2(2, 1)
    driver: Driver | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        verb = asked.pop("ask")
        answer: dict[str, Any]
        try:
            if verb == "connect":
                driver = Driver(**asked)
                answer = {}
            else:
                answer = {"found": getattr(driver, verb)(**asked)}
        except Exception as error:
            told = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
            # It would say so again.
            answer = {"error": told, "refused": isinstance(error, (ValueError, TypeError))}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
