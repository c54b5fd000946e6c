"""Successive halving (Jamieson & Talwalkar 2016): many candidates begin, the better half goes on.

The candidates train side by side in the same forward passes over the one frozen model, on the same
records in the same order; they differ in learning rate, initialisation and number of virtual tokens.
With N updates in a whole training, twelve candidates make N/12 updates, the best six go on to 2N/12, the
best three to 4N/12, and one to N: 12/12 + 6/12 + 6/12 + 8/12 = 2.7 trainings in all. The first candidate is
what would have been trained without a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.table import REQUEST, Limits
from caikit_pt.parameters.tuning import (
    AUTO,
    RANDOM,
    SAMPLE_VOCAB,
    TEXT,
    TUNING_PARAMETERS,
    TuningParameters,
)
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.contest import Contest, Entrant
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.trial import Trial
from caikit_pt.tuning.validation import JUDGED, Validation

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


class Search(Contest):
    """What `search: auto` tries for `plan`, judged by a draw of the records of `validation`."""

    # Of eleven others none is that much better by chance but once in twenty times.
    errors = 2.6

    def __init__(self, plan: TuningPlan, base: BaseModel, validation: Validation, updates: int) -> None:
        tried = candidates(plan.parameters, plan.limits, plan.labels)
        super().__init__([Entrant(one, plan.initial) for one in tried], rungs(len(tried), updates))
        self._device, self._judging = base.weights.device, validation.draw(JUDGED)

    def rows(self, candidates: Sequence[Candidate], step: int) -> list[list[float]]:
        """By record, the loss of the mean of a candidate's prompts since half-way from the last rung: while
        learning rates are high the prompt itself is restless, and the restless ones are often those that end
        best."""
        return self._judging.row_losses(
            [candidate.mean().to(self._device).tensors for candidate in candidates]
        )

    def loss(self, rows: Sequence[float]) -> float:
        return self._judging.loss(rows).value

    def told(self, trials: Sequence[Trial], kept: Trial) -> dict[str, Any]:
        """Nothing of a search whose request has left nothing to vary."""
        told = [
            trial.to_dict({name: getattr(trial.parameters, name) for name in _VARIED}, kept=trial is kept)
            for trial in trials
        ]
        return {"search": told} if len(told) > 1 else {}


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


def _varied(
    parameters: TuningParameters,
    limits: Limits,
    labels: Sequence[str],
    rate: float,
    method: str,
    tokens: float,
) -> TuningParameters:
    open_names = {name for name, origin in parameters.origins.items() if origin != REQUEST}
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
