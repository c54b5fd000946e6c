"""`nodes`: the machines on which a server's trainings are run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from caikit_pt.client.node import Node
from caikit_pt.commands.connecting import connected
from caikit_pt.commands.options import Commands
from caikit_pt.commands.outcome import DONE, FAILED
from caikit_pt.commands.output import as_json, print_table

_GIB = 2**30


def add_to(commands: Commands) -> None:
    """The one there is."""
    commands.ask("nodes", _nodes, "the machines on which trainings are run, and what is free of them")


def _nodes(options: argparse.Namespace) -> int:
    with connected(options) as client:
        found = client.nodes()
    if options.json:
        print(as_json(asdict(found)))
    else:
        rows = [_row(one) for one in found.nodes]
        print_table(("NODE", "", "CPUS", "GPUS", "GPU GIB", "GIB", "LABELS"), rows)
        print(f"executor {found.executor}: {found.running} running, {found.queued} queued")
    if found.problem:
        print(f"No training can begin now: {found.problem}", file=sys.stderr)
    return FAILED if found.problem else DONE


def _row(node: Node) -> tuple[str, ...]:
    free, whole = node.free_memory_bytes, node.memory_bytes
    return (
        node.name,
        "" if node.lives else "gone",
        _of(node.free_cpus, node.cpus),
        _of(node.free_gpus, node.gpus),
        f"{node.gpu_memory_bytes / _GIB:.3g}" if node.gpu_memory_bytes else "",
        _of(None if free is None else free / _GIB, whole / _GIB),
        ", ".join(one for one in node.labels if not one.startswith("ray.io/node-id=")),
    )


def _of(free: float | None, whole: float) -> str:
    """What is free of how much."""
    return f"{whole:.3g}" if free is None else f"{free:.3g} of {whole:.3g}"
