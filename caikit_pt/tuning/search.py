"""Successive halving (Jamieson & Talwalkar 2016): many candidates begin, the better half goes on.

The candidates train side by side in the same forward passes over the one frozen model, on the same
records in the same order; they differ in learning rate, initialisation and number of virtual tokens.
With N updates in a whole training, eight candidates make N/8 updates, the best four go on to N/4, the
best two to N/2, and one to N: 8/8 + 4/8 + 2/4 + 1/2 = 2.5 trainings in all. The first candidate is what
would have been trained without a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from caikit_pt.parameters.tuning import (
    AUTO,
    RANDOM,
    SAMPLE_VOCAB,
    TUNING_PARAMETERS,
    TuningParameters,
)

# Learning rate as a multiple of the default, initialisation, virtual tokens as a share of the default.
# Small models want 0.1 to 1, large causal ones a hundredth of it; a short prompt is easier to train.
_CANDIDATES: tuple[tuple[float, str, float], ...] = (
    (1, RANDOM, 1),
    (1 / 3, SAMPLE_VOCAB, 1),
    (1 / 10, RANDOM, 1),
    (1 / 30, SAMPLE_VOCAB, 1),
    (1 / 300, SAMPLE_VOCAB, 1),
    (3, RANDOM, 1),
    (1, SAMPLE_VOCAB, 1 / 5),
    (1 / 3, RANDOM, 1 / 5),
)
_SEARCHED = "search"


def candidates(parameters: TuningParameters) -> list[TuningParameters]:
    """What to try: `parameters` alone without a search, else these first. What a request names stays."""
    if parameters.search != AUTO:
        return [parameters]
    return list(
        {
            (one.learning_rate, one.prompt_tuning_init_method, one.num_virtual_tokens): one
            for one in (_varied(parameters, *candidate) for candidate in _CANDIDATES)
        }.values()
    )


def rungs(count: int, updates: int) -> dict[int, int]:
    """After which update how many of `count` candidates go on."""
    left: dict[int, int] = {}
    for halvings in range(1, count.bit_length()):
        share = 2 ** (halvings - 1) / count
        left[max(1, math.ceil(share * updates))] = count // 2**halvings
    return left


def _varied(parameters: TuningParameters, rate: float, method: str, tokens: float) -> TuningParameters:
    open_names = {name for name, origin in parameters.origins.items() if origin != "request"}
    changed: dict[str, Any] = {}
    if "learning_rate" in open_names:
        table = TUNING_PARAMETERS["learning_rate"]
        changed["learning_rate"] = min(rate * parameters.learning_rate, float(table.high or math.inf))
        if "task_learning_rate" in open_names:
            scale = changed["learning_rate"] / parameters.learning_rate
            changed["task_learning_rate"] = min(
                scale * parameters.task_learning_rate, float(table.high or math.inf)
            )
    # A source prompt decides both, and a text its own start.
    if "prompt_tuning_init_method" in open_names:
        changed["prompt_tuning_init_method"] = method
    if parameters.origins.get("num_virtual_tokens") == "default":
        changed["num_virtual_tokens"] = max(1, round(tokens * parameters.num_virtual_tokens))
    different = {name: value for name, value in changed.items() if value != getattr(parameters, name)}
    origins: Mapping[str, str] = {**parameters.origins, **dict.fromkeys(different, _SEARCHED)}
    return replace(parameters, **different, origins=origins)
