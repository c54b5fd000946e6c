"""Three servers with more prompts than one keeps the keys and values of: asked by prompt, and at random."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import psutil

from bench.serving.checkpoint import text_of
from bench.serving.load import Load
from bench.serving.measured import Cost, cost, middle
from bench.serving.server import publish
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import TuningClient
from examples.local_server import ROOT, free_port, running

_HEAD = (
    "prompts",
    "servers",
    "asked",
    "keys and values were there",
    "new tokens/s",
    "CPU a request",
)
_SERVERS, _CLIENTS = 3, 48
_RANDOM, _BY_PROMPT = "at random", "by prompt"
_Ask = Callable[[str], TuningClient]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Servers that share their prompts."""

    ports: Sequence[int]
    metrics: Sequence[int]
    processes: Sequence[psutil.Process]

    @property
    def addresses(self) -> list[str]:
        """Of each."""
        return [f"localhost:{port}" for port in self.ports]

    def clock(self) -> float:
        """CPU seconds of all so far."""
        spent = [process.cpu_times() for process in self.processes]
        return float(sum(one.user + one.system for one in spent))

    def looked_up(self) -> tuple[float, float]:
        """How often keys and values were there so far, and weren't, at all of them."""
        pages = [httpx2.get(f"http://localhost:{port}/metrics").text for port in self.metrics]
        found = [_counted("\n".join(pages), kind) for kind in ("hits", "misses")]
        return found[0], found[1]


def routing(base: BaseModel, directory: Path, load: Load, rounds: int) -> str:
    """A row for each way; both ask the same in turns, after each prompt was asked once in the same way."""
    names = [f"prompt-{number}" for number in range(load.prompts)]
    for name, tensor in zip(names, load.tensors, strict=True):
        publish(base, tensor, directory / "models" / name)
    costs: dict[str, list[Cost]] = {_RANDOM: [], _BY_PROMPT: []}
    found: dict[str, list[tuple[float, float]]] = {_RANDOM: [], _BY_PROMPT: []}
    with _running(base, directory, _kept_mib(base, load)) as fleet, ExitStack() as stack:
        each = [stack.enter_context(closing(TuningClient(address))) for address in fleet.addresses]
        several = stack.enter_context(closing(TuningClient(fleet.addresses)))
        chance = random.Random(0)
        ways: dict[str, _Ask] = {_RANDOM: lambda _: chance.choice(each), _BY_PROMPT: lambda _: several}
        for turn in range(rounds):
            asked = load.of_round(turn)
            drawn = random.Random(turn).choices(names, k=load.requests)
            for way, ask in ways.items():
                _answers(ask, names, [asked.texts[0]] * len(names), new=1)
                before = fleet.looked_up()
                costs[way].append(
                    cost(partial(_answers, ask, drawn, asked.texts, load.new), clock=fleet.clock)
                )
                hits, misses = (now - then for now, then in zip(fleet.looked_up(), before, strict=True))
                found[way].append((hits, misses))
    rows = [_row(load, way, costs[way], found[way]) for way in ways]
    ratio = middle(costs[_RANDOM]).wall / middle(costs[_BY_PROMPT]).wall
    spent = middle(costs[_RANDOM]).cpu / middle(costs[_BY_PROMPT]).cpu
    ratios = f"{ratio:.2f} times the tokens/s; at random took {spent:.2f} times the CPU time"
    return f"{table(_HEAD, rows)}\n\nBy prompt against at random: {ratios}.\n"


def _row(load: Load, way: str, costs: Sequence[Cost], found: Sequence[tuple[float, float]]) -> list[str]:
    one = middle(costs)
    hits, misses = (sum(counts) for counts in zip(*found, strict=True))
    return [
        f"{load.prompts:,} of {load.virtual_tokens}",
        str(_SERVERS),
        way,
        f"{hits / (hits + misses):.0%}",
        number(load.tokens / one.wall),
        milliseconds(one.cpu / load.requests),
    ]


def _answers(ask: _Ask, names: Sequence[str], texts: Sequence[Sequence[int]], new: int) -> None:
    """As many clients as threads ask all of it, each again when it is answered."""

    def answer(number: int) -> None:
        ask(names[number]).generate(
            names[number], text_of(list(texts[number])), max_new_tokens=new, min_new_tokens=new
        )

    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(answer, range(len(names))))


def _kept_mib(base: BaseModel, load: Load) -> int:
    """What the keys and values of a third of the prompts take."""
    return max(1, base.serving.position_bytes * load.virtual_tokens * load.prompts // _SERVERS // 2**20)


@contextmanager
def _running(base: BaseModel, directory: Path, kept_mib: int) -> Iterator[Fleet]:
    with ExitStack() as stack:
        ports, metrics, processes = [], [], []
        for name in range(_SERVERS):
            port, metric = free_port(), free_port()
            environment = {
                **os.environ,
                "CONFIG_FILES": str(ROOT / "runtime_config.yaml"),
                "BASE_MODELS_DIR": str(base.checkpoint.directory.parent),
                "RUNTIME_GRPC_PORT": str(port),
                "RUNTIME_METRICS_ENABLED": "true",
                "RUNTIME_METRICS_PORT": str(metric),
                "RUNTIME_LOCAL_MODELS_DIR": str(directory / "models"),
                "STATE_DIR": str(directory / f"state-{name}"),
                "PROMPT_CACHE_MIB": str(kept_mib),
                # All clients are of this host.
                "MAX_STREAMS_PER_CLIENT": str(_CLIENTS),
                "DRAIN_SECONDS": "0",
            }
            started = stack.enter_context(running(environment, port, directory / f"server-{name}.log"))
            ports.append(port)
            metrics.append(metric)
            processes.append(psutil.Process(started.pid))
        yield Fleet(ports, metrics, processes)


def _counted(page: str, kind: str) -> float:
    lines = re.findall(rf"^caikit_pt_prompt_cache_{kind}_total(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, lines))
