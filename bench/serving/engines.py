"""Many requests at once, in this process: every contender on the same loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from bench.serving.checkpoint import Models
from bench.serving.contenders import ONE_BY_ONE, VLLM, by_round, contenders, ours
from bench.serving.load import Load
from bench.serving.measured import Cost, equal_answers, interleaved, middle
from bench.serving.table import number, table
from bench.serving.vllm import Vllm
from caikit_pt.base_model.model import BaseModel

_HEAD = ("load", "who", "CPU s", "s", "new tokens/s", "times one by one", "equal answers")


def engines(models: Models, loads: Sequence[Load], rounds: int, vllm: Vllm | None) -> str:
    """A row for each load and contender; tokens and ratios by CPU time, on a GPU by time that passed."""
    device = models.base.weights.device.type
    known = contenders(models, vllm)
    works = {(load, name): by_round(run, load) for load in loads for name, run in known.items()}
    clocks = {(load, VLLM): vllm.clock for load in loads} if vllm else {}
    costs = {key: middle(found) for key, found in interleaved(works, rounds, device, clocks).items()}
    rows = []
    for load in loads:
        reference = costs[load, ONE_BY_ONE]
        rows += [_row(load, name, costs[load, name], reference, device) for name in known]
        if vllm is None and models.base.text.continues_text:
            rows.append([load.title, VLLM, "not installed", *[""] * (len(_HEAD) - 3)])
    return table(_HEAD, rows)


def _row(load: Load, name: str, one: Cost, reference: Cost, device: str) -> list[str]:
    spent, first = (one.cpu, reference.cpu) if device == "cpu" else (one.wall, reference.wall)
    return [
        load.title,
        name,
        number(one.cpu),
        number(one.wall),
        number(load.tokens / spent),
        number(first / spent),
        f"{equal_answers(one.result, reference.result)} of {load.requests}",
    ]


def many_prompts(base: BaseModel, loads: Sequence[Load], rounds: int) -> str:
    """What other prompts cost where only their number differs; their keys and values are there already.

    Pair by pair, in turn: what ran before, and left memory behind, is of the same size for both.
    """
    lines = []
    for one, many in product(loads, repeat=2):
        if one.prompts == 1 < many.prompts and replace(many, prompts=1) == one:
            works = {load: by_round(partial(ours, base), load) for load in (one, many)}
            found = interleaved(works, rounds, base.weights.device.type)
            first, other = middle(found[one]), middle(found[many])
            lines.append(
                f"{many.prompts} prompts of {many.virtual_tokens} against one: "
                f"{other.cpu / first.cpu - 1:+.1%} CPU time, "
                f"{other.wall / first.wall - 1:+.1%} of the time that passes."
            )
    return "\n\n".join(lines)
