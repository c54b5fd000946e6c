"""What it is worth that the keys and values of a soft prompt are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from bench.serving.contenders import one_by_one, sequences_of, steps
from bench.serving.load import Load
from bench.serving.measured import interleaved, middle
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.frozen import BaseModel

_HEAD = ("CPU time", "kept", "computed each time", "times", "generate() one by one", "times")


def prompt_cache(base: BaseModel, network: Any, load: Load, rounds: int) -> str:
    """By how many tokens are wanted. One request at a time: company shares the cost of a prompt, too."""
    budget = base.prompts.budget
    works: dict[tuple[str, int], Callable[[], object]] = {}
    for new in (1, 5, load.new):
        asked = replace(load, new=new)
        works["kept", new] = partial(_alone, base, asked, budget)
        works["computed", new] = partial(_alone, base, asked, 0)
        works["plain", new] = partial(one_by_one, base, network, asked)
    try:
        costs = {key: middle(found).cpu for key, found in interleaved(works, rounds).items()}
    finally:
        base.prompts.budget = budget
    rows = []
    for new in (1, 5, load.new):
        kept, computed, plain = (costs[name, new] / load.requests for name in ("kept", "computed", "plain"))
        wanted = "to the first token" if new == 1 else f"{new} new tokens"
        rows.append(
            (
                wanted,
                milliseconds(kept),
                milliseconds(computed),
                number(computed / kept),
                milliseconds(plain),
                number(plain / kept),
            )
        )
    return table(_HEAD, rows)


def _alone(base: BaseModel, load: Load, budget: int) -> None:
    if base.prompts.budget != budget:
        base.prompts.clear()
        base.prompts.budget = budget
    for sequence in sequences_of(base, load):
        for _ in steps(base, [sequence]):
            pass
