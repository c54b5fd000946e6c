"""One request alone, against generate(); and what a GPU is kept busy with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from bench.serving.contenders import by_round, one_by_one, ours, sequences_of, steps
from bench.serving.load import Load
from bench.serving.measured import cost, interleaved, middle, synchronize
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.frozen import BaseModel

_ALONE = ("one request alone", "CPU", "passed")
_DECODE = ("rows", "tokens/s", "of the memory's bandwidth")
_COPIED = 2**30
_DECODED = 64


def alone(base: BaseModel, network: Any, load: Load, rounds: int) -> str:
    """The same requests, each after the one before."""
    single = replace(load, requests=1)
    works = {
        "generate()": partial(by_round, one_by_one, base, network, single),
        "caikit_pt": partial(by_round, ours, base, single),
    }
    found = interleaved(works, 3 * rounds, base.device.type)
    costs = {name: middle(of_one) for name, of_one in found.items()}
    return table(
        _ALONE, ((name, milliseconds(one.cpu), milliseconds(one.wall)) for name, one in costs.items())
    )


def decode(base: BaseModel, load: Load) -> str:
    """Steps of a whole batch: tokens a second, and the share of the bandwidth that reading the weights is."""
    bandwidth = _bandwidth(base.device.type)
    weights = sum(weight.nbytes for weight in base.model.parameters())
    rows = []
    for count in (1, 64):
        asked = replace(load, requests=count, prompts=1, new=_DECODED + 8)
        walk = steps(base, sequences_of(base, asked))
        for _ in range(8):
            next(walk)
        once = cost(partial(_advance, walk, _DECODED - 8), base.device.type)
        a_second = (_DECODED - 8) / once.wall
        rows.append((str(count), number(count * a_second), f"{weights * a_second / bandwidth:.0%}"))
        for _ in walk:
            pass
    return table(_DECODE, rows)


def _advance(walk: Iterator[None], count: int) -> None:
    for _ in range(count):
        next(walk)


def _bandwidth(device: str) -> float:
    """Bytes a second that are read, by a copy, which writes as many."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    synchronize(device)
    return 2 * _COPIED / min(cost(lambda: target.copy_(source), device).wall for _ in range(3))
