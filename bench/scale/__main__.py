"""Prints what requests cost beside many jobs and prompts, as Markdown: a full server by a nearly empty one.

python -m bench.scale               10,000 queued, 1,000,000 past, 100,000 prompts; some minutes
python -m bench.scale --quick       does it run?

Both are real servers with SQLite, asked in turns. One training runs in each, so that nothing else begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import psutil

from caikit_pt.client import COMPLETED, RUNNING, TuningClient
from caikit_pt.runtime.job_store import DATABASE, JobStore
from examples.local_server import environment_of, free_port, running

_RECORDS = [
    {"input": f"The {thing} is great", "output": "good"} for thing in ("kettle", "lamp", "desk", "mixer")
]
_TUNED = {"base_model": "tiny-llama", "records": _RECORDS, "num_virtual_tokens": 20, "num_epochs": 1}
_PAGE = 100
_MOST_LINKS = 50_000


@dataclass(slots=True)
class Contender:
    """A server with so many jobs and prompts, and what each kind of request took it."""

    queued: int
    past: int
    prompts: int
    client: TuningClient
    process: psutil.Process
    store: JobStore
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)


Ask = Callable[[Contender], object]
_ASKS: dict[str, Ask] = {
    "list, a page of 100": lambda one: list(islice(one.client.trainings(), _PAGE)),
    "list what is queued, a page": lambda one: list(islice(one.client.trainings(states=["QUEUED"]), _PAGE)),
    "list one model's trainings": lambda one: list(one.client.trainings(model_name="past-1")),
    "find one that has ended": lambda one: one.client.training("past-50"),
    "find one that waits": lambda one: one.client.training("queued-50"),
    "submit": lambda one: one.client.tune(f"new-{next(one.numbers)}", **_TUNED),
    "watch, the first event": lambda one: next(iter(one.client.watch("queued-50"))),
    "list prompts, a page of 100": lambda one: list(islice(one.client.prompts(), _PAGE)),
    "load a prompt, and answer": lambda one: one.client.generate(
        f"prompt-{next(one.numbers)}", "The lamp is great", max_new_tokens=1
    ),
    "whose turn it is (in process)": lambda one: one.store.queue.next(),
    "count jobs by state (in process)": lambda one: one.store.counts(),
    "prompts of a tenant who has 100 (in process)": lambda one: one.store.paths_of("tenant-0"),
}


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a hundredth of the jobs, few turns")
    options = parser.parse_args()
    part = 100 if options.quick else 1
    turns = 5 if options.quick else 40
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = [
            stack.enter_context(_serving(directory / name, *sizes))
            for name, sizes in (
                ("few", (100, 100, 100)),
                ("many", (10_000 // part, 1_000_000 // part, 100_000 // part)),
            )
        ]
        for kind, ask in _ASKS.items():
            for turn in range(turns + 1):
                for contender in contenders[:: 1 if turn % 2 else -1]:
                    _measure(contender, kind, ask, counts=turn > 0)
        print(_table(contenders, turns))


@contextmanager
def _serving(directory: Path, queued: int, past: int, prompts: int) -> Iterator[Contender]:
    """A server that is started on what `_filled` has left, and is busy."""
    models, state = directory / "models", directory / "state"
    models.mkdir(parents=True)
    with _server(models, state) as (client, _):
        id = client.tune("prompt", **_TUNED)
        assert [event.state for event in client.watch(id)][-1] == COMPLETED
        busy = client.tune("busy", **{**_TUNED, "num_epochs": 10_000})
        client.tune("waits", **_TUNED)
    _fill(models, state, queued, past, prompts)
    with _server(models, state) as (client, process):
        while client.training(busy).state != RUNNING:
            time.sleep(0.1)
        store = JobStore(state)
        yield Contender(queued, past, prompts, client, process, store)
        client.cancel(busy)


@contextmanager
def _server(models: Path, state: Path) -> Iterator[tuple[TuningClient, psutil.Process]]:
    port = free_port()
    settings = {"MAX_QUEUED": "1000000", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = environment_of(port, models, state, settings)
    with (
        running(environment, port, Path(os.devnull)) as process,
        TuningClient(f"localhost:{port}") as client,
    ):
        yield client, psutil.Process(process.pid)


def _fill(models: Path, state: Path, queued: int, past: int, prompts: int) -> None:
    """As if so many had been trained, and so many were submitted."""
    linked = models / "prompt"
    for number in range(prompts):
        copy = models / f"prompt-{number}"
        # A file may have 65,000 names in some file systems.
        if number % _MOST_LINKS == _MOST_LINKS - 1:
            linked = Path(shutil.copytree(linked, copy))
            continue
        copy.mkdir()
        for file in linked.iterdir():
            os.link(file, copy / file.name)
    with closing(sqlite3.connect(state / DATABASE)) as database, database:
        database.row_factory = sqlite3.Row
        (done,) = database.execute("SELECT * FROM jobs WHERE state = 'COMPLETED'").fetchall()
        (waits,) = database.execute("SELECT * FROM jobs WHERE model_name = 'waits'").fetchall()
        for row, name, number in ((done, "past", past), (waits, "queued", queued)):
            names = [column for column in row.keys() if column != "number"]  # noqa: SIM118
            events = database.execute("SELECT * FROM events WHERE job = ?", (row["number"],)).fetchall()
            statement = f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            last = database.execute("SELECT MAX(number) FROM jobs").fetchone()[0]
            copies = (_copied(row, names, name, one, prompts) for one in range(number))
            database.executemany(statement, copies)
            database.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                ((last + 1 + one, *tuple(event)[1:]) for one in range(number) for event in events),
            )
    for number in range(queued):
        shutil.copytree(state / "jobs" / waits["id"], state / "jobs" / f"queued-{number}")
        accepted = state / "jobs" / f"queued-{number}" / "job.json"
        told = json.loads(accepted.read_text())
        accepted.write_text(json.dumps({**told, "id": f"queued-{number}"}))


def _copied(row: sqlite3.Row, names: list[str], name: str, number: int, prompts: int) -> tuple[object, ...]:
    new = {"id": f"{name}-{number}", "model_name": f"{name}-{number}", "path": f"/{name}/{number}"}
    if name == "past":
        # Of as many prompts as there are, each trained again and again; a tenant has a hundred of them.
        new |= {"path": f"/past/{number % prompts}", "tenant": f"tenant-{number % prompts // 100}"}
    return tuple(new.get(one, row[one]) for one in names)


def _measure(contender: Contender, kind: str, ask: Ask, counts: bool) -> None:
    spent, began = contender.process.cpu_times(), time.perf_counter()
    ask(contender)
    seconds, now = time.perf_counter() - began, contender.process.cpu_times()
    if counts:
        contender.milliseconds.setdefault(kind, []).append(1000 * seconds)
        cpu = now.user + now.system - spent.user - spent.system
        contender.cpu.setdefault(kind, []).append(1000 * cpu)


def _table(contenders: list[Contender], turns: int) -> str:
    few, many = contenders
    titles = [f"{one.queued:,} / {one.past:,} / {one.prompts:,}" for one in contenders]
    lines = [
        f"Medians of {turns} requests, one at a time, two servers in turns. CPU is the server's mean by a "
        "clock that ticks every 10 ms.",
        "",
        f"| queued / past / prompts | {titles[0]}, ms | {titles[1]}, ms | ratio | CPU ms | CPU ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in _ASKS:
        times = [statistics.median(one.milliseconds[kind]) for one in (few, many)]
        cpu = [statistics.fmean(one.cpu[kind]) for one in (few, many)]
        lines.append(
            f"| {kind} | {times[0]:.2f} | {times[1]:.2f} | {times[1] / times[0]:.2f}"
            f" | {cpu[0]:.1f} | {cpu[1]:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
