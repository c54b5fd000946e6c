"""A real server with tuned prompts, and clients that ask it all at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.serving.checkpoint import text_of
from bench.serving.contenders import answered, by_round, requests_of
from bench.serving.load import Load
from bench.serving.measured import Cost, cost, interleaved, middle, percentile
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.model import BaseModel
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.grpc_client import Client
from examples.local_server import server

_HEAD = (
    "virtual tokens",
    "prompts",
    "clients",
    "requests/s",
    "new tokens/s",
    "p50",
    "p90",
    "CPU a request",
    "streamed: first token p50",
    "p90",
    "CPU a request",
)
_BESIDE = ("virtual tokens", "prompts", "who", "CPU a request", "requests/s", "CPU more", "time more")
_ENGINE, _WHOLE, _STREAMED = "the engine alone", "over gRPC", "over gRPC, streamed"
_NAME = "bench-{}-{}"
_TURNS = 2  # of a client, where there are as many as requests


@dataclass(frozen=True, slots=True)
class Running:
    """A server, and where it finds its prompts."""

    port: int
    models: Path
    process: psutil.Process

    def clock(self) -> float:
        """CPU seconds so far."""
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)


class Clients:
    """As many as wanted, each with a connection of its own."""

    def __init__(self, at: Running, most: int) -> None:
        self._clients = [Client(at.port) for _ in range(most)]

    def whole(self, count: int, load: Load) -> list[float]:
        """`count` clients share the requests of `load`; seconds to each answer."""
        return self._all_at_once(self._whole, count, load)

    def streamed(self, count: int, load: Load) -> list[float]:
        """The same with streams; seconds to each first token."""
        return self._all_at_once(self._streamed, count, load)

    def prepare(self, load: Load) -> None:
        """Has the server load the prompts of `load`, and compute their keys and values."""
        for index in range(load.prompts):
            self._clients[0].predict(_name(load, index), text_of(load.texts[0]), max_new_tokens=2)

    def _whole(self, client: Client, load: Load, request: int) -> float:
        began = time.perf_counter()
        client.predict(_name(load, request), text_of(load.texts[request]), **_parameters(load))
        return time.perf_counter() - began

    def _streamed(self, client: Client, load: Load, request: int) -> float:
        began = time.perf_counter()
        stream = client.stream(_name(load, request), text_of(load.texts[request]), **_parameters(load))
        next(stream)
        first = time.perf_counter() - began
        for _ in stream:
            pass
        return first

    def _all_at_once(self, ask: Callable[[Client, Load, int], float], count: int, load: Load) -> list[float]:
        gate = threading.Barrier(count)

        def begin(number: int) -> list[float]:
            gate.wait()
            return [
                ask(self._clients[number], load, request) for request in range(number, load.requests, count)
            ]

        with ThreadPoolExecutor(count) as pool:
            return [seconds for times in pool.map(begin, range(count)) for seconds in times]


@contextmanager
def running(base: BaseModel, directory: Path) -> Iterator[Running]:
    """A server over the checkpoint of `base`."""
    models = directory / "models"
    models.mkdir()
    before = {child.pid for child in psutil.Process().children()}
    with ExitStack() as stack:
        with redirect_stdout(sys.stderr):  # it says that it starts
            settings = {
                "BASE_MODELS_DIR": str(base.checkpoint.directory.parent),
                # All clients are of this host.
                "MAX_STREAMS_PER_CLIENT": "48",
            }
            port = stack.enter_context(server(models, settings))
        (process,) = (child for child in psutil.Process().children() if child.pid not in before)
        yield Running(port, models, process)


def publish(base: BaseModel, tensor: torch.Tensor, target: Path) -> None:
    """A tuned prompt that the server can be asked for."""
    tuned = TunedPrompt(
        prompt=SoftPrompt({base.checkpoint.prompt_parts[0]: tensor}),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    PeftPromptTuning(tuned, base).save(str(target))


def over_grpc(base: BaseModel, at: Running, loads: Sequence[Load], counts: Sequence[int]) -> str:
    """A row for each load and number of clients. Each client asks again when it is answered."""
    clients = Clients(at, max(counts))
    rows = []
    for load in loads:
        _publish_all(base, at, load)
        clients.prepare(load)
        for count in counts:
            asked = replace(load, requests=max(load.requests, _TURNS * count))
            rows.append(_row(at, clients, count, asked))
    return table(_HEAD, rows)


def beside_the_engine(base: BaseModel, at: Running, loads: Sequence[Load], count: int, rounds: int) -> str:
    """What gRPC, caikit and texts cost: `count` clients, and the engine alone with as many rows."""
    clients = Clients(at, count)
    works: dict[tuple[Load, str], Callable[[int], Callable[[], Any]]] = {}
    asked = [replace(load, requests=_TURNS * count) for load in loads]
    for load in asked:
        _publish_all(base, at, load)
        clients.prepare(load)
        works[load, _ENGINE] = by_round(partial(_engine, base, count), load)
        works[load, _WHOLE] = by_round(partial(clients.whole, count), load)
        works[load, _STREAMED] = by_round(partial(clients.streamed, count), load)
    clocks = {key: at.clock for key in works if key[1] != _ENGINE}
    costs = {key: middle(found) for key, found in interleaved(works, rounds, clocks=clocks).items()}
    return table(_BESIDE, (_beside(*key, one, costs[key[0], _ENGINE]) for key, one in costs.items()))


def first_token_after_publication(base: BaseModel, at: Running, load: Load, times: int) -> str:
    """Seconds from the rename to the first token of a client that has waited for it."""
    client = Client(at.port)
    found = []
    for turn in range(times):
        name = f"published-{turn}"
        publish(base, load.tensors[0] + turn, at.models / name)
        began = time.perf_counter()
        next(client.stream(name, text_of(load.texts[0]), max_new_tokens=2))
        found.append(time.perf_counter() - began)
    return (
        f"From the publication of a prompt to its first token: {milliseconds(percentile(found, 0.5))} "
        f"(the longest of {times}: {milliseconds(max(found))})."
    )


def _row(at: Running, clients: Clients, count: int, load: Load) -> list[str]:
    whole = cost(partial(clients.whole, count, load), clock=at.clock)
    streamed = cost(partial(clients.streamed, count, load), clock=at.clock)
    return [
        str(load.virtual_tokens),
        str(load.prompts),
        str(count),
        number(load.requests / whole.wall),
        number(load.tokens / whole.wall),
        *_percentiles(whole),
        milliseconds(whole.cpu / load.requests),
        *_percentiles(streamed),
        milliseconds(streamed.cpu / load.requests),
    ]


def _percentiles(one: Cost) -> list[str]:
    return [milliseconds(percentile(one.result, share)) for share in (0.5, 0.9)]


def _beside(load: Load, name: str, one: Cost, engine: Cost) -> list[str]:
    more = [f"{one.cpu / engine.cpu - 1:+.0%}", f"{one.wall / engine.wall - 1:+.0%}"]
    return [
        str(load.virtual_tokens),
        str(load.prompts),
        name,
        milliseconds(one.cpu / load.requests),
        number(load.requests / one.wall),
        *(["", ""] if name == _ENGINE else more),
    ]


def _engine(base: BaseModel, rows: int, load: Load) -> object:
    return answered(base, requests_of(base, load), rows)


def _publish_all(base: BaseModel, at: Running, load: Load) -> None:
    for index, tensor in enumerate(load.tensors):
        if not (at.models / _name(load, index)).exists():
            publish(base, tensor, at.models / _name(load, index))


def _name(load: Load, request: int) -> str:
    return _NAME.format(load.virtual_tokens, request % load.prompts)


def _parameters(load: Load) -> dict[str, Any]:
    return {"max_new_tokens": load.new, "min_new_tokens": load.new, "preserve_input_text": False}
