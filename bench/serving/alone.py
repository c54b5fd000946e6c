"""One request alone, against generate(); and what a GPU is kept busy with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from bench.serving.checkpoint import Models
from bench.serving.contenders import ONE_BY_ONE, OURS, by_round, one_by_one, ours, requests_of, steps
from bench.serving.load import Load
from bench.serving.measured import cost, interleaved, middle, synchronize
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.model import BaseModel

_ALONE = ("one request alone", "CPU", "passed")
_DECODE = ("rows", "tokens/s", "of the memory's bandwidth")
_COPIED = 2**30
_WARM_UP, _STEPS = 8, 56
# A step of a T5 reads neither its encoder nor the keys and values of the encoder's output.
_READ_BEFORE = ("encoder.", "EncDecAttention.k.", "EncDecAttention.v.")


def alone(models: Models, load: Load, rounds: int) -> str:
    """One request, and when it is answered another one."""
    single = replace(load, requests=1)
    works = {
        ONE_BY_ONE: by_round(partial(one_by_one, models), single),
        OURS: by_round(partial(ours, models.base), single),
    }
    found = interleaved(works, 3 * rounds, models.base.weights.device.type)
    costs = {name: middle(of_one) for name, of_one in found.items()}
    return table(
        _ALONE, ((name, milliseconds(one.cpu), milliseconds(one.wall)) for name, one in costs.items())
    )


def decode(base: BaseModel, load: Load) -> str:
    """Steps of a whole batch: tokens a second, and the share of the bandwidth that reading the weights is."""
    bandwidth = _bandwidth(base.weights.device.type)
    weights = bytes_of_a_step(base.weights.model)
    rows = []
    for count in (1, 64):
        asked = replace(load, requests=count, prompts=1, new=_WARM_UP + _STEPS + 1)
        walk = steps(base, requests_of(base, asked))
        _advance(walk, _WARM_UP)
        once = cost(partial(_advance, walk, _STEPS), base.weights.device.type)
        a_second = _STEPS / once.wall
        rows.append((str(count), number(count * a_second), f"{weights * a_second / bandwidth:.0%}"))
    return table(_DECODE, rows)


def bytes_of_a_step(model: Any) -> int:
    """Weights that a step reads, whole: of the embeddings it reads a row for each token."""
    embeddings = model.get_input_embeddings().weight
    looked_up = embeddings is not model.get_output_embeddings().weight
    return sum(
        weight.nbytes
        for name, weight in model.named_parameters()
        if not (looked_up and weight is embeddings)
        and not any(part in name for part in _READ_BEFORE if model.config.is_encoder_decoder)
    )


def _advance(walk: Iterator[None], count: int) -> None:
    for _ in range(count):
        next(walk)


def _bandwidth(device: str) -> float:
    """Bytes a second that are read and written, by a copy."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    synchronize(device)
    return 2 * _COPIED / min(cost(lambda: target.copy_(source), device).wall for _ in range(3))
