"""What it is worth that the keys and values of a soft prompt are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from bench.serving.checkpoint import Models
from bench.serving.contenders import Answers, answered, by_round, one_by_one, requests_of
from bench.serving.load import Load
from bench.serving.measured import Cost, interleaved, middle
from bench.serving.table import milliseconds, number, table
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.serving.prompt_cache import PromptCache

_HEAD = (
    "requests",
    "wanted",
    "kept: CPU",
    "passed",
    "computed each time: CPU",
    "passed",
    "times CPU",
    "generate() one by one: CPU",
    "passed",
    "times CPU",
)
_KEPT, _COMPUTED, _PLAIN = "kept", "computed", "plain"
_Key: TypeAlias = tuple[str, Load]
_SHARE_ALONE = 4  # of the requests, one in so many is asked again, after the one before


def prompt_cache(models: Models, load: Load, rounds: int) -> str:
    """The engine with its cache and without it, and generate(), which has none. Times are those of a request.

    All requests at once, and one at a time: in company a text costs little, and the prompt is most of it.
    """
    base, device = models.base, models.base.weights.device.type
    own, kept, none = base.serving.prompts, PromptCache(), PromptCache(budget=0)
    few = max(1, load.requests // _SHARE_ALONE)
    loads = [
        replace(some, new=new)
        for some in (load, replace(load, requests=few, prompts=few))
        for new in (1, 5, load.new)
    ]
    works: dict[_Key, Callable[[int], Callable[[], Any]]] = {}
    for asked in loads:
        rows = load.requests if asked.requests == load.requests else 1
        works[_KEPT, asked] = by_round(partial(_engine, base, kept, rows), asked)
        works[_COMPUTED, asked] = by_round(partial(_engine, base, none, rows), asked)
        works[_PLAIN, asked] = by_round(partial(one_by_one, models), asked)
    try:
        costs = {key: middle(found) for key, found in interleaved(works, rounds, device).items()}
    finally:
        base.serving.prompts = own
    return table(_HEAD, [_row(asked, costs, load.requests) for asked in loads])


def _engine(base: BaseModel, cache: PromptCache, rows: int, load: Load) -> Answers:
    base.serving.prompts = cache
    return answered(base, requests_of(base, load), rows)


def _row(asked: Load, costs: dict[_Key, Cost], together: int) -> list[str]:
    cpu = {name: costs[name, asked].cpu / asked.requests for name in (_KEPT, _COMPUTED, _PLAIN)}
    wall = {name: costs[name, asked].wall / asked.requests for name in cpu}
    return [
        f"{asked.requests} at once" if asked.requests == together else "one at a time",
        "to the first token" if asked.new == 1 else f"{asked.new} new",
        *(milliseconds(times[_KEPT]) for times in (cpu, wall)),
        *(milliseconds(times[_COMPUTED]) for times in (cpu, wall)),
        number(cpu[_COMPUTED] / cpu[_KEPT]),
        *(milliseconds(times[_PLAIN]) for times in (cpu, wall)),
        number(cpu[_PLAIN] / cpu[_KEPT]),
    ]
