"""Who is compared: our defaults, search and separators, a grid of twelve, peft at four rates, outsiders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS, SEARCH = "defaults", "search"
# They know no language model.
MAJORITY, TF_IDF = "majority", "TF-IDF"
OUTSIDERS = (MAJORITY, TF_IDF)

Request = Mapping[str, Any]
RATES = (0.03, 0.1, 0.3, 1.0)
_STARTS: tuple[tuple[str, int], ...] = (("RANDOM", 100), ("SAMPLE_VOCAB", 100), ("RANDOM", 20))
GRID: Mapping[str, Request] = {
    f"{rate} {method} {tokens}": {
        "learning_rate": rate,
        "prompt_tuning_init_method": method,
        "num_virtual_tokens": tokens,
    }
    for rate in RATES
    for method, tokens in _STARTS
}
# peft's loop at these learning rates.
PEFT: Mapping[str, float] = {f"peft {rate}": rate for rate in RATES}
# What may stand between text and answer, by what it is called in a table.
SEPARATORS: Mapping[str, Request] = {
    "nothing": {"separator": ""},
    "line break": {"separator": "\n"},
    "Label:": {"separator": " Label:"},
}
# What a contender of ours asks for; everything else is at its default.
REQUESTS: Mapping[str, Request] = {DEFAULTS: {}, SEARCH: {"search": "auto"}, **SEPARATORS, **GRID}

# A column of a table, and the contenders of which the best by the selection records stands in it.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    MAJORITY: (MAJORITY,),
    TF_IDF: (TF_IDF,),
    # Before whoever has the same parameters as one of its points, and takes over its outcome.
    "grid": tuple(GRID),
    DEFAULTS: (DEFAULTS,),
    SEARCH: (SEARCH,),
    **{name: (name,) for name in SEPARATORS},
    "peft": tuple(PEFT),
}
GRID_COLUMN, PEFT_COLUMN = "grid", "peft"
CONTENDERS = tuple(name for names in COLUMNS.values() for name in names)


def is_chosen_among(contender: str) -> bool:
    """Whether it has to be judged by the selection records, too."""
    return contender in GRID or contender in PEFT
