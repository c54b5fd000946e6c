"""Successive halving (Jamieson & Talwalkar 2016): many candidates begin, the better half goes on.

The candidates train side by side in the same forward passes over the one frozen model, on the same
records in the same order; they differ in learning rate, initialisation and number of virtual tokens.
With N updates in a whole training, twelve candidates make N/12 updates, the best six go on to 2N/12, the
best three to 4N/12, and one to N: 12/12 + 6/12 + 6/12 + 8/12 = 2.7 trainings in all. The first candidate is
what would have been trained without a search.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from caikit_pt.parameters.table import Limits
from caikit_pt.parameters.tuning import (
    AUTO,
    RANDOM,
    SAMPLE_VOCAB,
    TEXT,
    TUNING_PARAMETERS,
    TuningParameters,
)

# What is tried beside the parameters as they are: learning rate as a multiple of theirs, initialisation
# (TEXT: the labels' own words), virtual tokens as a share of theirs. Rates go in steps of three on both
# sides, and farther down for large causal models, which want a hundredth of what small ones do. A short
# prompt is easier to train.
_CANDIDATES: tuple[tuple[float, str, float], ...] = (
    (3, RANDOM, 1),
    (1 / 3, RANDOM, 1),
    (3, RANDOM, 1 / 5),
    (1, RANDOM, 1 / 5),
    (1 / 3, RANDOM, 1 / 5),
    (1, TEXT, 1),
    (1 / 3, TEXT, 1),
    (3, SAMPLE_VOCAB, 1),
    (1, SAMPLE_VOCAB, 1),
    (1 / 9, SAMPLE_VOCAB, 1),
    (1 / 100, SAMPLE_VOCAB, 1),
)
_VARIED = ("learning_rate", "prompt_tuning_init_method", "num_virtual_tokens")
_SEARCHED = "search"
# Standard errors that are more than chance: of eleven others none is that much better once in twenty times.
_ERRORS = 2.6


@dataclass(slots=True)
class Trial:
    """What became of a candidate: by the updates of the rungs that it reached, its loss on held-out records.

    Who has none at the first rung had diverged before.
    """

    parameters: TuningParameters
    losses: dict[int, float] = field(default_factory=dict)

    def to_dict(self, kept: bool) -> dict[str, Any]:
        """Plain values; None for a loss that is no finite number."""
        return {
            **{name: getattr(self.parameters, name) for name in _VARIED},
            "losses": [
                {"step": step, "loss": loss if math.isfinite(loss) else None}
                for step, loss in self.losses.items()
            ],
            "kept": kept,
        }


def candidates(
    parameters: TuningParameters, limits: Limits, labels: Sequence[str] = ()
) -> list[TuningParameters]:
    """What to try: `parameters` alone without a search, else these first.

    What a request names stays, and nothing leaves the `limits` that the operator sets. Without `labels` no
    prompt starts from their words.
    """
    if parameters.search != AUTO:
        return [parameters]
    tried: dict[tuple[Any, ...], TuningParameters] = {}
    for one in (parameters, *(_varied(parameters, limits, labels, *candidate) for candidate in _CANDIDATES)):
        tried.setdefault(tuple(getattr(one, name) for name in _VARIED), one)
    return list(tried.values())


def rungs(count: int, updates: int) -> dict[int, int]:
    """After which update how many of `count` candidates go on."""
    left: dict[int, int] = {}
    for halvings in range(1, count.bit_length()):
        share = 2 ** (halvings - 1) / count
        left[max(1, math.ceil(share * updates))] = count // 2**halvings
    return left


def judged_from(rungs: Mapping[int, int]) -> frozenset[int]:
    """The updates, half-way to each rung, from which on prompts count in what is judged there."""
    steps = sorted(rungs)
    return frozenset(before + (step - before) // 2 + 1 for before, step in pairwise([0, *steps]))


def survivors(
    rows: Sequence[Sequence[float]], losses: Sequence[float], left: int, favoured: int | None
) -> list[int]:
    """The numbers of the `left` candidates that go on, best first, by their `losses` on held-out records.

    The `favoured` one, what would be trained without a search, has the benefit of the doubt: it goes on
    unless the last of the others that would is better by more than chance explains, by the standard error of
    the difference over the records, or has less than half of its loss. `rows` has, for each
    candidate, the loss of each record.
    """
    order = sorted(range(len(losses)), key=lambda number: _ranked(losses[number]))
    kept = order[:left]
    if favoured is not None and favoured not in kept and not _clearly_worse(rows[favoured], rows[kept[-1]]):
        kept[-1] = favoured
    return kept


def _clearly_worse(rows: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the mean of `rows` lies above that of `others` by more than chance, or is twice as large."""
    differences = [one - other for one, other in zip(rows, others, strict=True)]
    if not all(map(math.isfinite, differences)):
        return True
    count = len(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else 0.0
    return statistics.fmean(differences) > min(_ERRORS * error, statistics.fmean(others))


def _ranked(loss: float) -> float:
    """What isn't a number comes last."""
    return loss if loss == loss else math.inf


def _varied(
    parameters: TuningParameters,
    limits: Limits,
    labels: Sequence[str],
    rate: float,
    method: str,
    tokens: float,
) -> TuningParameters:
    open_names = {name for name, origin in parameters.origins.items() if origin != "request"}
    changed: dict[str, Any] = {}
    if "learning_rate" in open_names:
        # Without the digits that a product leaves.
        wanted = float(f"{rate * parameters.learning_rate:.3g}")
        changed["learning_rate"] = TUNING_PARAMETERS["learning_rate"].nearest(wanted, limits)
        if "task_learning_rate" in open_names:
            scale = changed["learning_rate"] / parameters.learning_rate
            rate = scale * parameters.task_learning_rate
            changed["task_learning_rate"] = TUNING_PARAMETERS["task_learning_rate"].nearest(rate, limits)
    # A source prompt and a tuned one decide both, and a text its own start.
    if parameters.origins.get("prompt_tuning_init_method") == "default":
        text = parameters.prompt_tuning_init_text or ", ".join(labels)
        if method == TEXT and text:
            changed["prompt_tuning_init_text"] = text
        changed["prompt_tuning_init_method"] = method if method != TEXT or text else RANDOM
    if parameters.origins.get("num_virtual_tokens") == "default":
        fewer = max(1, round(tokens * parameters.num_virtual_tokens))
        changed["num_virtual_tokens"] = TUNING_PARAMETERS["num_virtual_tokens"].nearest(fewer, limits)
    different = {name: value for name, value in changed.items() if value != getattr(parameters, name)}
    origins: Mapping[str, str] = {**parameters.origins, **dict.fromkeys(different, _SEARCHED)}
    return replace(parameters, **different, origins=origins)
