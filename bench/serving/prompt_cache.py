"""What it is worth that the keys and values of a soft prompt are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from bench.serving.contenders import Answers, by_round, one_by_one, ours
from bench.serving.load import Load
from bench.serving.measured import interleaved, middle
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.base_model.prompt_cache import PromptCache

_HEAD = ("CPU time a request", "kept", "computed each time", "times", "generate() one by one", "times")


def prompt_cache(base: BaseModel, network: Any, load: Load, rounds: int) -> str:
    """By how many tokens are wanted: the engine with its cache, without it, and generate()."""
    own, kept_cache, none = base.prompts, PromptCache(), PromptCache(budget=0)
    works: dict[tuple[str, int], Callable[[int], object]] = {}
    wanted = (1, 5, load.new)
    for new in wanted:
        asked = replace(load, new=new)
        works["kept", new] = partial(_engine, base, asked, kept_cache)
        works["computed", new] = partial(_engine, base, asked, none)
        works["plain", new] = partial(by_round, one_by_one, base, network, asked)
    try:
        costs = {key: middle(found).cpu for key, found in interleaved(works, rounds).items()}
    finally:
        base.prompts = own
    rows = []
    for new in wanted:
        kept, computed, plain = (costs[name, new] / load.requests for name in ("kept", "computed", "plain"))
        rows.append(
            (
                "to the first token" if new == 1 else f"{new} new tokens",
                milliseconds(kept),
                milliseconds(computed),
                number(computed / kept),
                milliseconds(plain),
                number(plain / kept),
            )
        )
    return table(_HEAD, rows)


def _engine(base: BaseModel, load: Load, cache: PromptCache, round: int) -> Answers:
    base.prompts = cache
    return ours(base, load.of_round(round))
