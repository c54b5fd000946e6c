"""Prints what it brings to share a training among workers, as Markdown.

python -m bench.parallel            what docs/training.md shows, some minutes
python -m bench.parallel --quick    does it run?

Two workers beside one, in turns, on this machine, and beside two trainings that know nothing of each other,
since two cores that share a cache or a clock do less than twice as much; and what 64 would do, by measured
seconds of their shares and of gloo's messages, and by links that are assumed.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NoReturn, TypeAlias

import psutil
import torch

from bench.serving.checkpoint import FIRST_WORD, make_models, text_of
from bench.serving.table import milliseconds, number, table
from bench.training.shapes import SHAPES, Shape
from caikit_pt.base_model.family import CAUSAL
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.runtime.helper_processes import HelperProcesses
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.plan_files import write_plan
from caikit_pt.settings import Settings
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.errand import Errand
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.group import Group, meeting_in
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.plan import TuningPlan, make_plan

# By the clock, and the processor's of the busier worker.
_Seconds: TypeAlias = tuple[float, float]
_TOY = Shape("toy-llama", CAUSAL.name, 2, 32, 48, 4, 8, 200, kv_heads=2)
_WORKERS = (1, 2, 4, 8, 16, 32, 64)
_LOOPBACK = "127.0.0.1"
_ROUNDS_OF_MESSAGES = 30
_SECONDS_TO_BEGIN = 120.0
# A Llama of 8B on GPUs: parameters, width, virtual tokens, records an update, positions each, and operations
# a second of matrix products (H100, bfloat16, at 40 % of 989 TFLOP/s).
_LARGE = (8e9, 4096, 100, 256, 300, 0.4 * 989e12)


@dataclass(frozen=True, slots=True)
class Link:
    """Seconds of a message, and the processor's for each other worker; bytes a second."""

    name: str
    latency: float
    each: float
    bandwidth: float

    def seconds(self, workers: int, told: int, numbers: int) -> float:
        """Of an update: an errand of `told` bytes goes down a tree, and `numbers` are added up."""
        if workers == 1:
            return 0.0
        others = workers - 1
        down = math.ceil(math.log2(workers)) * (2 * self.latency + told / self.bandwidth)
        swapped = numbers * others / workers * (4 + 8) / self.bandwidth
        return down + 2 * (self.latency + others * self.each) + swapped


class Updates:
    """Updates of one training, each of so many records."""

    def __init__(self, base: BaseModel, plan: TuningPlan) -> None:
        examples = make_examples(plan.records, base.text, plan.parameters)
        self.base, self._learner = base, self.learner(base, plan)
        window = plan.parameters.window
        self.batches = [
            examples.batch(range(start, start + window)) for start in range(0, len(examples), window)
        ]

    @staticmethod
    def learner(base: BaseModel, plan: TuningPlan) -> Learner:
        """As a training begins."""
        return Candidate.begin(base, plan.parameters, None, 1_000_000).learner

    def make(self, crew: Crew | None) -> None:
        """All of them once."""
        compute = partial(gradients, backward=crew.backward) if crew else gradients
        for batch in self.batches:
            (loss,) = compute(self.base, [self._learner], [batch])
            self._learner.step(loss)

    def errand(self, batch: TrainingBatch, shares: int) -> Errand:
        """As who leads sends it."""
        return Errand([self._learner.prompt.tensors()], batch, shares, [1.0] * len(batch.sources))


def main() -> None:
    """Prints all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--beside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quick, beside = options.quick, options.beside
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if beside:
        _train_beside(beside)
    shape = _TOY if quick else SHAPES["llama"]
    with tempfile.TemporaryDirectory() as directory, no_denormals():
        base, plan = _training(shape, Path(directory), records=64 if quick else 256, window=64)
        updates = Updates(base, plan)
        print(f"# {shape.name}, float32, {plan.parameters.window} records an update, one thread each\n")
        print(_measured(updates, plan, Path(directory), rounds=2 if quick else 5))
        print(_simulated(updates, Path(directory), _WORKERS[:3] if quick else _WORKERS))


def _training(shape: Shape, directory: Path, records: int, window: int) -> tuple[BaseModel, TuningPlan]:
    make_models(shape, directory / shape.name, "float32", "cpu")
    rng = random.Random(5)

    def text(least: int, most: int) -> str:
        return text_of([rng.randrange(FIRST_WORD, shape.vocabulary) for _ in range(rng.randint(least, most))])

    made = [{"input": text(30, 90), "output": text(2, 8)} for _ in range(records)]
    request = {
        "base_model": shape.name,
        "num_virtual_tokens": 20,
        "batch_size": 16,
        "accumulate_steps": window // 16,
        "validation_share": 0.0,
        "learning_rate": 0.01,
    }
    plan = make_plan(request, made, None, Settings(base_models_dir=str(directory), device="cpu"))
    return plan.base_model(), plan


# ---- two beside one ----


def _measured(updates: Updates, plan: TuningPlan, directory: Path, rounds: int) -> str:
    """By the clock, and by the processor's time of whoever has most of it, which doesn't count who else is on
    the machine."""
    alone, two, apart = list[_Seconds](), list[_Seconds](), list[_Seconds]()
    with _crew(plan, directory) as (crew, helper), _other_training(directory / "job") as other:
        for _ in range(rounds + 1):
            alone.append(_timed(updates, None, helper))
            two.append(_timed(updates, crew, helper))
            other.resume()
            apart.append(_timed(updates, None, helper))
            other.suspend()
    records = sum(len(batch.sources) for batch in updates.batches)
    # The first round warms up.
    rows = [
        _row(records, name, *(which([one[kind] for one in told[1:]]) for told in (alone, two, apart)))
        for name, kind, which in (
            ("the clock, median", 0, median),
            ("the clock, best round", 0, min),
            ("processor's time of the busier worker, median", 1, median),
        )
    ]
    head = (
        "records/s by",
        "one worker",
        "two workers",
        "two trainings apart, together",
        "two workers: times one",
        "of two apart",
    )
    return table(head, rows) + "\n"


def _row(records: int, name: str, alone: float, two: float, apart: float) -> tuple[str, ...]:
    """Of two that train apart each makes as many as the one that is timed."""
    rates = records / alone, records / two, 2 * records / apart
    return (name, *map(number, rates), f"{alone / two:.2f}", f"{rates[1] / rates[2]:.0%}")


@contextmanager
def _other_training(folder: Path) -> Iterator[psutil.Process]:
    """Of a process that makes the same updates on and on; it is suspended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.parallel", "--beside", str(folder)], stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "it has ended"
            other = psutil.Process(process.pid)
            other.suspend()
            yield other
        finally:
            process.kill()


def _train_beside(folder: Path) -> NoReturn:
    plan = JobFolder(folder).plan()
    updates = Updates(plan.base_model(), plan)
    with no_denormals():
        updates.make(None)
        print("ready", flush=True)
        while True:
            updates.make(None)


@contextmanager
def _crew(plan: TuningPlan, directory: Path) -> Iterator[tuple[Crew, psutil.Process]]:
    """Two workers, the second of which is there."""
    folder = directory / "job"
    folder.mkdir()
    write_plan(folder, plan)
    helpers = HelperProcesses(1, folder, "cpu", directory)
    try:
        deadline = time.monotonic() + _SECONDS_TO_BEGIN
        while helpers.group().size < 2:
            assert time.monotonic() < deadline, "no helper came"
            time.sleep(0.1)
        helper = next(one for one in psutil.Process().children() if one.name() == "helper")
        yield Crew(2, helpers), helper
    finally:
        helpers.close()


def _timed(updates: Updates, crew: Crew | None, helper: psutil.Process) -> _Seconds:
    """Seconds by the clock, and the processor's of the busier worker."""
    began, own, other = time.perf_counter(), time.process_time(), sum(helper.cpu_times()[:2])
    updates.make(crew)
    seconds = time.perf_counter() - began
    return seconds, max(time.process_time() - own, sum(helper.cpu_times()[:2]) - other)


# ---- many ----


def _simulated(updates: Updates, directory: Path, workers: tuple[int, ...]) -> str:
    """An update takes as long as the longest of its shares, each timed here, and as its messages."""
    batch = updates.batches[0]
    whole = updates.errand(batch, 1)
    told, numbers = len(whole.to_bytes()), whole.shares(updates.base, range(1)).shape[1]
    loopback = _loopback(directory)
    links = [
        loopback,
        Link("10 Gbit/s, 50 µs", 50e-6, loopback.each, 1.25e9),
        Link("100 Gbit/s, 10 µs", 10e-6, loopback.each, 12.5e9),
    ]
    longest = {count: _longest_share(updates, batch, count) for count in workers}
    rows = [
        (
            str(count),
            milliseconds(longest[count]),
            *(
                _gain(longest[1], longest[count] + link.seconds(count, told, numbers), count)
                for link in links
            ),
        )
        for count in workers
    ]
    head = ("workers", "longest share", *(f"{link.name}: times, of what is ideal" for link in links))
    parameters, width, tokens, records, positions, speed = _LARGE
    step = 4 * parameters * records * positions / speed
    prefix = 4 * parameters * tokens / speed
    size = int(tokens * width)
    large = [
        (
            str(count),
            milliseconds(prefix + step / count),
            *(
                _gain(
                    prefix + step,
                    prefix
                    + 4 * parameters * positions * math.ceil(records / count) / speed
                    + link.seconds(count, 4 * size + int(records * positions * 6), size),
                    count,
                )
                for link in links[1:]
            ),
        )
        for count in workers
    ]
    return (
        f"gloo on loopback: {milliseconds(loopback.latency)} a message, {milliseconds(loopback.each)} of the "
        f"processor for each other worker, {loopback.bandwidth / 1e9:.2f} GB/s; an errand has "
        f"{told / 1e3:,.0f} kB, {numbers:,} numbers come back\n\n"
        + table(head, rows)
        + f"\n\nA model of {parameters / 1e9:.0f}B, {tokens} virtual tokens, {records} records of "
        f"{positions} positions an update, {speed / 1e12:.0f} TFLOP/s a GPU, all of it assumed:\n\n"
        + table(("workers", "computes", *head[3:]), large)
    )


def _gain(one: float, many: float, workers: int) -> str:
    return f"{one / many:.2f}, {one / many / workers:.0%}"


def _longest_share(updates: Updates, batch: TrainingBatch, count: int) -> float:
    """Processor's seconds, the least of two, since only work makes it longer."""
    errand = updates.errand(batch, count)
    return max(
        min(_processor_time(partial(errand.shares, updates.base, range(own, own + 1))) for _ in range(2))
        for own in range(count)
    )


def _processor_time(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _loopback(directory: Path) -> Link:
    """What a group of threads of this process needs."""
    small, large = 64, 2**20
    of_two, _ = _exchanged(directory, 2, small)
    _, of_eight = _exchanged(directory, 8, small)
    much, _ = _exchanged(directory, 2, large)
    # All eight are in this process, and each talks twice with seven.
    each = of_eight / (8 * 7 * 2)
    # Two broadcasts, a swap and a gathering.
    return Link("loopback", of_two / 4, each, large * (4 + 12 / 2) / max(1e-9, much - of_two))


def _exchanged(directory: Path, size: int, numbers: int) -> tuple[float, float]:
    """Seconds of telling 4 bytes a number and adding so many: by the clock, the median; the processor's of
    all together, the mean."""
    file = directory / f"messages-{size}-{numbers}"
    parts = torch.ones(1, numbers)

    def help() -> None:
        group = Group(meeting_in(file, size), next(ranks), size, _LOOPBACK)
        while group.hear():
            group.add(parts, size)
        group.leave()

    ranks = iter(range(1, size))
    threads = [threading.Thread(target=help) for _ in range(1, size)]
    for thread in threads:
        thread.start()
    group = Group(meeting_in(file, size), 0, size, _LOOPBACK)
    told, seconds = bytes(4 * numbers), []
    spent = time.process_time()
    for _ in range(_ROUNDS_OF_MESSAGES):
        began = time.perf_counter()
        group.tell(told)
        group.add(parts, size)
        seconds.append(time.perf_counter() - began)
    spent = time.process_time() - spent
    group.tell(b"")
    for thread in threads:
        thread.join()
    group.leave()
    return median(seconds), spent / _ROUNDS_OF_MESSAGES


if __name__ == "__main__":
    main()
