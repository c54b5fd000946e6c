"""Prints what the guard costs, as Markdown: requests a second of this server beside caikit's own, bare.

python -m bench.guard               what the documentation shows, some minutes
python -m bench.guard --quick       does it run?

Both serve the same prompt with the same module, in turns; one was started by `caikit-pt serve`, the other by
`python -m caikit.runtime`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from caikit_pt.client import COMPLETED, TuningClient
from examples.local_server import environment_of, free_port, running

_BARE, _GUARDED = "caikit's own server", "with the guard"
_STARTS = {_BARE: "caikit.runtime", _GUARDED: "caikit_pt.runtime"}
_RECORDS = [
    {"input": f"The {thing} is great", "output": "good"} for thing in ("kettle", "lamp", "desk", "mixer")
]


@dataclass(slots=True)
class Contender:
    """A server, and what each of its turns has shown, by the kind of request."""

    name: str
    client: TuningClient
    process: psutil.Process
    rates: dict[str, list[float]] = field(default_factory=dict)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)  # of CPU, a request


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few requests, few turns")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    options = parser.parse_args()
    turns, requests = (3, 20) if options.quick else (15, 200)
    kinds: dict[str, Callable[[TuningClient], object]] = {
        "answer of 1 token": lambda client: client.generate("first", "The lamp is great", max_new_tokens=1),
        "answer of 20 tokens": lambda client: client.generate(
            "first", "The lamp is great", max_new_tokens=20, min_new_tokens=20, labels_only=False
        ),
        "stream of 20 tokens": lambda client: list(
            client.stream(
                "first", "The lamp is great", max_new_tokens=20, min_new_tokens=20, labels_only=False
            )
        ),
    }
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = [stack.enter_context(_serving(name, directory)) for name in (_GUARDED, _BARE)]
        pool = stack.enter_context(ThreadPoolExecutor(options.clients))
        for kind, ask in kinds.items():
            for turn in range(turns + 1):
                for contender in contenders[:: 1 if turn % 2 else -1]:
                    _measure(contender, kind, ask, requests, pool, counts=turn > 0)
        print(_table(contenders, list(kinds), options.clients, turns, requests))
        print(_growth(contenders[0], kinds, pool, 500 if options.quick else 10_000))


@contextmanager
def _serving(name: str, directory: Path) -> Iterator[Contender]:
    """The first trains the prompt that both serve."""
    port, models = free_port(), directory / "models"
    models.mkdir(exist_ok=True)
    settings = {"RUNTIME_LIBRARY": "caikit_pt", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = environment_of(port, models, directory / name / "state", settings)
    with (
        running(environment, port, Path(os.devnull), module=_STARTS[name]) as process,
        TuningClient(f"localhost:{port}") as client,
    ):
        if not list(models.iterdir()):
            id = client.tune(
                "first", base_model="tiny-llama", records=_RECORDS, num_virtual_tokens=20, num_epochs=1
            )
            assert [event.state for event in client.watch(id)][-1] == COMPLETED
        yield Contender(name, client, psutil.Process(process.pid))


def _measure(
    contender: Contender,
    kind: str,
    ask: Callable[[TuningClient], object],
    requests: int,
    pool: ThreadPoolExecutor,
    counts: bool,
) -> None:
    spent, began = _cpu_seconds(contender.process), time.perf_counter()
    list(pool.map(lambda _: ask(contender.client), range(requests)))
    seconds, spent = time.perf_counter() - began, _cpu_seconds(contender.process) - spent
    if counts:
        contender.rates.setdefault(kind, []).append(requests / seconds)
        contender.milliseconds.setdefault(kind, []).append(1000 * spent / requests)


def _growth(
    guarded: Contender,
    kinds: dict[str, Callable[[TuningClient], object]],
    pool: ThreadPoolExecutor,
    most: int,
) -> str:
    """What the process keeps of so many requests of all kinds, behind those that were measured above."""
    asks = list(kinds.values())
    grown = [guarded.process.memory_info().rss]
    for _ in range(2):
        list(pool.map(lambda number: asks[number % len(asks)](guarded.client), range(most // 2)))
        grown.append(guarded.process.memory_info().rss)
    mib = [size / 2**20 for size in grown]
    return (
        f"\nResident memory of the server, MiB: {mib[0]:.1f}, after {most // 2:,} requests more {mib[1]:.1f} "
        f"({100 * (mib[1] / mib[0] - 1):+.2f} %), after {most:,} {mib[2]:.1f} "
        f"({100 * (mib[2] / mib[0] - 1):+.2f} %)."
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _table(contenders: list[Contender], kinds: list[str], clients: int, turns: int, requests: int) -> str:
    guarded, bare = contenders
    lines = [
        f"Medians of {turns} turns of {requests} requests, {clients} at once; ratios of turns side by side.",
        "",
        f"| | {bare.name}, requests a second | {guarded.name} | ratio | CPU ms a request | guarded | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in kinds:
        cells = [kind]
        for of in ("rates", "milliseconds"):
            one, other = getattr(bare, of)[kind], getattr(guarded, of)[kind]
            ratio = statistics.median(b / a for a, b in zip(one, other, strict=True))
            cells += [f"{statistics.median(one):.3g}", f"{statistics.median(other):.3g}", f"{ratio:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
