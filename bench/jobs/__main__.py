"""Prints what jobs cost beside their training, as Markdown, each on a real server.

python -m bench.jobs            what the documentation shows, about five minutes
python -m bench.jobs --quick    does it run?
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

from bench.serving.checkpoint import FIRST_WORD, make_models, text_of
from bench.serving.table import milliseconds, number, table
from bench.training.shapes import SHAPES
from caikit_pt.client import COMPLETED, TuningClient
from examples.local_server import ROOT, server

_EMBEDDED = ("tiny-llama", "tiny-t5")
_DEFAULT_SECONDS = 60.0  # checkpoint_seconds
_REQUEST = {"num_virtual_tokens": 20, "batch_size": 8, "accumulate_steps": 4, "validation_share": 0.0}
_WHEN = ("base model", "virtual tokens", "to the first update", "of its end to the first token served")
_SNAPSHOTS = (
    "base model",
    "virtual tokens",
    "snapshots",
    "one takes",
    "of the time, one a second",
    "of the time, by default",
)
_PREDICTED = (
    "base model",
    "updates",
    "seconds, predicted",
    "measured",
    "MB, predicted",
    "MB of its process",
    "MB of its own",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One training. Seconds and bytes; `peak` is the resident memory of its process, `own` what of it no
    other process shares."""

    base_model: str
    virtual_tokens: int
    to_first_update: float
    to_first_token: float
    training: float
    updates: int
    snapshots: Sequence[float]
    predicted: Any
    peak: int
    own: int


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="the embedded models alone, for seconds")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shapes = () if options.quick else ("llama", "t5")
    with tempfile.TemporaryDirectory() as scratch, _server(Path(scratch), shapes) as (client, process):
        # The first one waits for what the process loads once.
        _measure(client, process, "tiny-t5", 20, 2)
        found = [
            _measure(client, process, name, virtual_tokens, epochs)
            for name, epochs in [
                *((name, 3 if options.quick else 30) for name in _EMBEDDED),
                *((name, 3) for name in shapes),
            ]
            for virtual_tokens in (20, 100)
        ]
    for head, rows in (
        (_WHEN, map(_when, found)),
        (_SNAPSHOTS, map(_snapshots, found)),
        (_PREDICTED, map(_predicted, found)),
    ):
        print(table(head, rows) + "\n", flush=True)


@contextmanager
def _server(directory: Path, shapes: Sequence[str]) -> Iterator[tuple[TuningClient, psutil.Process]]:
    """A server that keeps a snapshot a second, with the embedded models and those of `shapes`."""
    bases = directory / "base_models"
    bases.mkdir()
    (directory / "models").mkdir()
    for name in _EMBEDDED:
        shutil.copytree(ROOT / "examples" / "base_models" / name, bases / name)
    for name in shapes:
        make_models(SHAPES[name], bases / name, "float32", "cpu")
    settings = {"BASE_MODELS_DIR": str(bases), "CHECKPOINT_SECONDS": "1"}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        running = server(directory / "models", settings)
        port = running.__enter__()
    try:
        with TuningClient(f"localhost:{port}") as client:
            yield client, psutil.Process().children()[-1]
    finally:
        running.__exit__(None, None, None)


def _measure(
    client: TuningClient, process: psutil.Process, base_model: str, virtual_tokens: int, epochs: int
) -> Measured:
    name = f"{base_model}-{virtual_tokens}"
    request: dict[str, Any] = {
        **_REQUEST,
        "base_model": base_model,
        "records": _records(base_model),
        "num_epochs": epochs,
        "num_virtual_tokens": virtual_tokens,
    }
    predicted = client.check(name, **request)
    with _memory(process) as resident:
        began = time.time()
        id = client.tune(name, **request)
        for event in client.watch(id):
            if event.kind == "artifact":
                next(client.stream(name, "w5 w6", max_new_tokens=2))
                to_first_token = time.time() - event.time.timestamp()
    events = list(client.watch(id))
    assert events[-1].state == COMPLETED, events[-1].text
    updates = [event for event in events if event.progress]
    last = updates[-1].progress
    assert last is not None
    return Measured(
        base_model=base_model,
        virtual_tokens=virtual_tokens,
        to_first_update=updates[0].time.timestamp() - began,
        to_first_token=to_first_token,
        training=last.seconds,
        updates=last.steps,
        snapshots=[event.data["seconds"] for event in events if event.kind == "checkpoint"],
        predicted=predicted,
        peak=max(whole for whole, _ in resident),
        own=max(own for _, own in resident),
    )


@contextmanager
def _memory(server: psutil.Process) -> Iterator[list[tuple[int, int]]]:
    """The memory of the server's trainings, as long as it is looked at."""
    found: list[tuple[int, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            found.extend(_resident(server))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _resident(server: psutil.Process) -> list[tuple[int, int]]:
    """Bytes of each of its trainings, and those that no other process shares."""
    found = []
    for child in server.children(recursive=True):
        with suppress(psutil.Error):
            if child.name() == "training":
                memory = child.memory_full_info()
                found.append((memory.rss, memory.uss))
    return found


def _records(base_model: str) -> list[dict[str, str]]:
    """Sources with a median of 40 tokens, targets of 1 to 8."""
    rng = random.Random("records")
    words = SHAPES[base_model].vocabulary if base_model in SHAPES else 1000

    def words_of(length: int) -> str:
        return text_of([rng.randrange(FIRST_WORD, words) for _ in range(length)])

    few = base_model in _EMBEDDED  # whose tokens are shorter than a word
    return [
        {
            "input": words_of(rng.randint(5, 15) if few else rng.randint(15, 65)),
            "output": words_of(rng.randint(1, 2 if few else 8)),
        }
        for _ in range(256)
    ]


def _when(one: Measured) -> list[str]:
    return [
        one.base_model,
        str(one.virtual_tokens),
        f"{one.to_first_update:.2f} s",
        f"{one.to_first_token:.2f} s",
    ]


def _snapshots(one: Measured) -> list[str]:
    takes = mean(one.snapshots) if one.snapshots else 0.0
    return [
        one.base_model,
        str(one.virtual_tokens),
        str(len(one.snapshots)),
        milliseconds(median(one.snapshots)) if one.snapshots else "",
        f"{sum(one.snapshots) / one.training:.2%}",
        f"{takes / _DEFAULT_SECONDS:.3%}",
    ]


def _predicted(one: Measured) -> list[str]:
    return [
        one.base_model,
        str(one.updates),
        number(one.predicted["seconds"]),
        number(one.training),
        number(one.predicted["device_memory_bytes"] / 1e6),
        number(one.peak / 1e6),
        number(one.own / 1e6),
    ]


if __name__ == "__main__":
    main()
