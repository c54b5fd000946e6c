"""Many requests at once, in this process: every contender on the same loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from bench.serving.contenders import CONTINUOUS, ONE_BY_ONE, OURS, VLLM, by_round, contenders
from bench.serving.load import Load
from bench.serving.measured import equal_answers, interleaved, middle
from bench.serving.table import number, table
from bench.serving.vllm import Vllm
from caikit_pt.base_model.frozen import BaseModel

_HEAD = ("load", "who", "CPU s", "s", "new tokens/s", "times one by one", "equal answers")


def engines(base: BaseModel, network: Any, loads: Sequence[Load], rounds: int, vllm: Vllm | None) -> str:
    """A row for each load and contender; tokens and ratios by CPU time, on a GPU by time that passed."""
    device = base.device.type
    known = contenders(base, network, vllm)
    works = {(load, name): partial(by_round, run, load) for load in loads for name, run in known.items()}
    clocks = {(load, VLLM): vllm.clock for load in loads} if vllm else {}
    costs = {key: middle(found) for key, found in interleaved(works, rounds, device, clocks).items()}
    rows = []
    for load in loads:
        reference = costs[load, ONE_BY_ONE]
        for name in known:
            one = costs[load, name]
            spent, first = (one.cpu, reference.cpu) if device == "cpu" else (one.wall, reference.wall)
            same = f"{equal_answers(one.result, reference.result)} of {load.requests}"
            rows.append(
                [
                    load.title,
                    name,
                    number(one.cpu),
                    number(one.wall),
                    number(load.tokens / spent),
                    number(first / spent),
                    "" if name == CONTINUOUS else same,
                ]
            )
    return "\n\n".join([table(_HEAD, rows), *_many_prompts(loads, [costs[load, OURS].cpu for load in loads])])


def _many_prompts(loads: Sequence[Load], spent: Sequence[float]) -> Iterator[str]:
    """What other prompts cost where only their number differs."""
    for (load, seconds), (other, others) in product(zip(loads, spent, strict=True), repeat=2):
        if load.prompts == 1 < other.prompts and replace(other, prompts=1) == load:
            more = f"{others / seconds - 1:+.1%}"
            yield f"{other.prompts} prompts of {load.virtual_tokens} against one: {more} CPU time."
