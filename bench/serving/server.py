"""A real server with tuned prompts, and clients that ask it all at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.serving.checkpoint import text_of
from bench.serving.load import Load
from bench.serving.measured import percentile
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.grpc_client import Client
from examples.local_server import server

_HEAD = (
    "clients",
    "prompts",
    "requests/s",
    "new tokens/s",
    "p50",
    "p90",
    "first token p50",
    "p90",
    "CPU a request",
    "engine's share",
)
_NAME = "bench-{}-{}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server, and where it finds its prompts."""

    port: int
    models: Path
    process: psutil.Process


@contextmanager
def running(base: BaseModel, directory: Path) -> Iterator[Running]:
    """A server over the checkpoint of `base`."""
    models = directory / "models"
    models.mkdir()
    before = {child.pid for child in psutil.Process().children()}
    with server(models, {"BASE_MODELS_DIR": str(base.checkpoint.directory.parent)}) as port:
        (process,) = (child for child in psutil.Process().children() if child.pid not in before)
        yield Running(port, models, process)


def publish(base: BaseModel, tensor: object, target: Path) -> None:
    """A tuned prompt that the server can be asked for."""
    part = base.checkpoint.prompt_parts[0]
    tuned = TunedPrompt(
        prompt=SoftPrompt({part: tensor}),  # type: ignore[dict-item]
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    PeftPromptTuning(tuned, base).save(str(target))


def over_grpc(
    base: BaseModel,
    at: Running,
    load: Load,
    clients: Sequence[int],
    prompts: Sequence[int],
    engine_cpu: float,
) -> str:
    """A row for each number of clients and prompts. `engine_cpu`: seconds of the bare engine for a request,
    all of `load` at once."""
    tensors = Load(load.shape, prompts=max(prompts), virtual_tokens=load.virtual_tokens).tensors
    for index, tensor in enumerate(tensors):
        publish(base, tensor, at.models / _NAME.format(load.virtual_tokens, index))
    asked = [Client(at.port) for _ in range(max(clients))]
    rows = []
    for many in prompts:
        for index in range(many):  # loaded, and computed once
            name = _NAME.format(load.virtual_tokens, index)
            asked[0].predict(name, text_of(load.texts[0]), max_new_tokens=2)
        for count in clients:
            rows.append(_row(at, asked[:count], many, load, engine_cpu))
    return table(_HEAD, rows)


def _row(at: Running, clients: Sequence[Client], prompts: int, load: Load, engine_cpu: float) -> list[str]:
    each = max(2, load.requests // len(clients))
    whole, began, cpu = list[float](), time.perf_counter(), _cpu(at)

    def ask(number: int) -> None:
        for turn in range(each):
            request = number * each + turn
            begun = time.perf_counter()
            clients[number].predict(
                _NAME.format(load.virtual_tokens, request % prompts),
                text_of(load.texts[request % load.requests]),
                max_new_tokens=load.new,
                min_new_tokens=load.new,
                preserve_input_text=False,
            )
            whole.append(time.perf_counter() - begun)

    _all_at_once(ask, len(clients))
    passed, cpu = time.perf_counter() - began, (_cpu(at) - cpu) / len(whole)
    first = _first_tokens(clients, prompts, load)
    return [
        str(len(clients)),
        str(prompts),
        number(len(whole) / passed),
        number(len(whole) * load.new / passed),
        *(milliseconds(percentile(times, share)) for times in (whole, first) for share in (0.5, 0.9)),
        milliseconds(cpu),
        f"{engine_cpu / cpu:.0%}",
    ]


def _first_tokens(clients: Sequence[Client], prompts: int, load: Load) -> list[float]:
    times: list[float] = []

    def ask(number: int) -> None:
        begun = time.perf_counter()
        stream = clients[number].stream(
            _NAME.format(load.virtual_tokens, number % prompts),
            text_of(load.texts[number % load.requests]),
            max_new_tokens=load.new,
            min_new_tokens=load.new,
        )
        next(stream)
        times.append(time.perf_counter() - begun)
        for _ in stream:
            pass

    _all_at_once(ask, len(clients))
    return times


def first_token_after_publication(base: BaseModel, at: Running, load: Load, times: int) -> str:
    """Seconds from the rename to the first token of a client that has waited for it."""
    client = Client(at.port)
    found = []
    for number_ in range(times):
        name = f"published-{number_}"
        publish(base, load.tensors[0] + number_, at.models / name)
        begun = time.perf_counter()
        next(client.stream(name, text_of(load.texts[0]), max_new_tokens=2))
        found.append(time.perf_counter() - begun)
    return (
        f"From the publication of a prompt to its first token: {milliseconds(percentile(found, 0.5))} "
        f"(the longest of {times}: {milliseconds(max(found))})."
    )


def _all_at_once(ask: Callable[[int], None], count: int) -> None:
    gate = threading.Barrier(count)

    def begin(number: int) -> None:
        gate.wait()
        ask(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(begin, range(count)))


def _cpu(at: Running) -> float:
    spent = at.process.cpu_times()
    return float(spent.user + spent.system)
