"""One engine with many prompts: all asked alike, or a few of them most of the time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from bench.serving.contenders import answered
from bench.serving.load import Load
from bench.serving.measured import Cost, interleaved, middle
from bench.serving.table import number, table
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.serving.prompt_cache import PromptCache
from caikit_pt.serving.request import Request
from caikit_pt.settings import Settings

_HEAD = (
    "virtual tokens",
    "prompts",
    "traffic",
    "MiB for keys and values",
    "were there",
    "new tokens/s",
)
_EVEN, _SKEWED = "even", "skewed"
# (prompts, traffic, MiB)
_Cell = tuple[int, str, int]


class Traffic:
    """Requests of one kind to an engine that keeps what it has computed from round to round."""

    def __init__(self, base: BaseModel, load: Load, skewed: bool, mib: int) -> None:
        self._base, self._load, self._skewed = base, load, skewed
        self._kept = PromptCache(mib * 2**20)
        self.shares: list[float] = []

    def of_round(self, turn: int) -> Callable[[], Any]:
        """Its requests in a round, ready to be asked."""
        load, part = self._load.of_round(turn), self._base.checkpoint.prompt_parts[0]
        # Zipf's law: the second is asked half as often as the first, the third a third as often ...
        weights = accumulate(1 / rank if self._skewed else 1.0 for rank in range(1, load.prompts + 1))
        drawn = random.Random(f"prompts of round {turn}").choices(
            range(load.prompts), cum_weights=list(weights), k=load.requests
        )
        asked = [
            Request(self._base.text, load.prompt(prompt, part), text, load.parameters)
            for prompt, text in zip(drawn, load.texts, strict=True)
        ]
        return partial(self._answer, asked, turn)

    def _answer(self, asked: Sequence[Request], turn: int) -> None:
        own, self._base.serving.prompts = self._base.serving.prompts, self._kept
        before = self._kept.hits, self._kept.misses
        try:
            answered(self._base, list(asked))
        finally:
            self._base.serving.prompts = own
        hits, misses = self._kept.hits - before[0], self._kept.misses - before[1]
        if turn >= 0:
            self.shares.append(hits / (hits + misses))


def traffic(base: BaseModel, load: Load, prompts: Sequence[int], rounds: int) -> str:
    """A row for each number of prompts and kind of traffic, by default settings; all in turns."""
    mib = Settings().prompt_cache_mib
    cells: dict[_Cell, Traffic] = {}
    for count in prompts:
        many = replace(load, prompts=count)
        _ = many.tensors
        for kind in (_EVEN, _SKEWED):
            cells[count, kind, mib] = Traffic(base, many, kind == _SKEWED, mib)
    costs = {
        cell: middle(found)
        for cell, found in interleaved({cell: one.of_round for cell, one in cells.items()}, rounds).items()
    }
    rates = [load.tokens / one.cpu for one in costs.values()]
    rows = [_row(load, cell, cells[cell], costs[cell]) for cell in cells]
    ratio = f"The slowest has {min(rates) / max(rates):.2f} of the fastest one's tokens/s."
    return f"{table(_HEAD, rows)}\n\n{ratio}\n"


def _row(load: Load, cell: _Cell, one: Traffic, spent: Cost) -> list[str]:
    count, kind, mib = cell
    return [
        str(load.virtual_tokens),
        f"{count:,}",
        kind,
        f"{mib:,}",
        f"{sum(one.shares) / len(one.shares):.0%}",
        number(load.tokens / spent.cpu),
    ]
