"""Prints what products cost under torch's kernel, under oneDNN's, and as chosen by trial, as Markdown.

python -m bench.kernels            what docs/kernels.md shows, about ten minutes on one core
python -m bench.kernels --quick    does it run?
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from bench.training.case import Case
    from caikit_pt.base_model.model import BaseModel

_WAYS = ("torch", "onednn", "chosen")
_ROWS, _TEXT, _NEW = 16, 40, 20


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small models, two rounds")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    # Before any thread pool is made.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from bench.serving.table import table
    from bench.training import models
    from bench.training.case import BFLOAT16, FLOAT32, Case
    from bench.training.shapes import SHAPES
    from bench.training.table import machine

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    names = ("llama-mini", "t5-mini") if options.quick else ("llama-mini", "t5-mini", "llama", "t5")
    rounds = options.rounds or (2 if options.quick else 9)
    print(machine("cpu") + "\n")
    lines = []
    for case in (Case(SHAPES[name], dtype) for name in names for dtype in (FLOAT32, BFLOAT16)):
        base = models.base(case)
        base.serving.pack()
        _ = base.training.trains_packed
        for work, measured in _measured(case, base, rounds).items():
            best = min(measured["torch"], measured["onednn"])
            seconds = [f"{1000 * measured[way]:,.1f}" for way in _WAYS]
            lines.append([case.shape.name, case.dtype, work, *seconds, f"{measured['chosen'] / best:.2f}"])
    titles = ("model", "type", "work", "torch, CPU ms", "oneDNN", "chosen", "chosen / better of both")
    print(table(titles, lines))


def _measured(case: Case, base: BaseModel, rounds: int) -> dict[str, dict[str, float]]:
    """By kind of work and way, the median of CPU seconds. In each round all ways do the same, in turns."""
    from bench.training.clock import seconds

    kinds = _works(case, base)
    spent: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in _WAYS} for kind in kinds}
    for number in range(-1, rounds):
        order = random.Random(number).sample(_WAYS, len(_WAYS))
        for kind, make in kinds.items():
            for way in order:
                with _under(way, base):
                    work = make(number)
                    took = seconds(work, "cpu")
                if number >= 0:  # the first is to warm up
                    spent[kind][way].append(took)
    return {kind: {way: median(took) for way, took in ways.items()} for kind, ways in spent.items()}


def _works(case: Case, base: BaseModel) -> Mapping[str, Callable[[int], Callable[[], object]]]:
    """What is measured, made ready for a round of that number: other records and texts in each."""
    import torch

    from bench.training.product import ProductLoop
    from caikit_pt.base_model.row import Row

    def rows(number: int) -> list[Row]:
        chance = random.Random(number)
        return [
            Row({}, [chance.randrange(10, 8000) for _ in range(chance.randint(_TEXT // 2, _TEXT))])
            for _ in range(_ROWS)
        ]

    def training(number: int) -> Callable[[], object]:
        # Numbers of positions that haven't been seen, as in a real training.
        records = case.records(seed=number)[: case.window - abs(number) % 7]
        return ProductLoop(base, records, case.window, case.prompt).run

    def reading(number: int) -> Callable[[], object]:
        def work() -> None:
            with torch.inference_mode():
                prefill = base.serving.batched_prefill(rows(number))
                while prefill.columns:
                    prefill.advance(512)

        return work

    def steps(number: int) -> Callable[[], object]:
        with torch.inference_mode():
            prefill = base.serving.batched_prefill(rows(number))
            while prefill.columns:
                prefill.advance(512)
            batch = base.serving.growing_batch()
            batch.join(prefill)

        def work() -> None:
            with torch.inference_mode():
                for _ in range(_NEW):
                    batch.advance(torch.full((_ROWS,), 11))

        return work

    return {"training": training, "reading texts": reading, "steps of 16 rows": steps}


@contextmanager
def _under(way: str, base: BaseModel) -> Iterator[None]:
    """Inside, every product is computed by one kernel, or as the trial has chosen."""
    from caikit_pt.base_model.layers import fastest
    from caikit_pt.base_model.layers.fastest import CANDIDATES, Case
    from caikit_pt.base_model.layers.kernels import TORCH
    from caikit_pt.base_model.layers.linear import pack_linears

    class Always(dict[Case, str]):
        def __contains__(self, case: object) -> bool:
            return True

        def __missing__(self, case: Case) -> str:
            return TORCH if way == "torch" else CANDIDATES[case.use][-1]

    chosen = fastest._CHOSEN if way == "chosen" else Always()
    with mock.patch.object(fastest, "_CHOSEN", chosen):
        pack_linears(base.weights.model)
        _forget(base)
        yield
    _forget(base)


def _forget(base: BaseModel) -> None:
    """What was derived from the kernels."""
    base.__dict__.pop("rounds_rows", None)
    for module in base.weights.model.modules():
        module.__dict__.pop("chosen", None)


if __name__ == "__main__":
    main()
