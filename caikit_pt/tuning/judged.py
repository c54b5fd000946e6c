"""Answers beside what was expected: how good they are, and how much better than somebody else's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from caikit_pt.tuning.estimate import Estimate, bootstraps, difference, proportion, ratio, sign_test
from caikit_pt.tuning.metrics import exact_match, macro_f1_of, mean_score, rouge_l, scores

ACCURACY, MACRO_F1, EXACT_MATCH, ROUGE_L, LOSS, PERPLEXITY = (
    "accuracy",
    "macro_f1",
    "exact_match",
    "rouge_l",
    "loss",
    "perplexity",
)
_SEED = 73  # of the resamples: the same answers always have the same intervals
_LARGEST_EXPONENT = 700.0


class Judged:
    """One's answers to records, which are labels where `labelled`; `losses` (nats, summed over
    `target_tokens`) where they can be compared with others'."""

    def __init__(
        self,
        answers: Sequence[str],
        outputs: Sequence[str],
        labelled: bool,
        losses: Sequence[float] = (),
        target_tokens: Sequence[int] = (),
    ) -> None:
        self.pairs = [
            (answer.strip(), output.strip()) for answer, output in zip(answers, outputs, strict=True)
        ]
        self.right = exact_match(answers, outputs)
        self._rouge = rouge_l(answers, outputs)
        self._labelled = labelled
        self._losses, self._target_tokens = losses, target_tokens

    def estimates(self) -> dict[str, Estimate]:
        """Every metric, with its interval."""
        found: dict[str, Estimate] = {}
        if self._labelled:
            answers, labels = zip(*self.pairs, strict=True)
            found |= scores("classification", answers, labels)
        found |= {EXACT_MATCH: proportion(self.right), ROUGE_L: mean_score(self._rouge)}
        if self._losses:
            loss = ratio(self._losses, list(map(float, self._target_tokens)))
            # exp of the loss and of its limits, where these are known.
            found |= {LOSS: loss, PERPLEXITY: Estimate(*map(_exp, (loss.value, loss.low, loss.high)))}
        return found

    def measured(self, drawn: np.ndarray[Any, Any]) -> dict[str, float]:
        """The metrics of the records with these indices, some of them perhaps several times."""
        right, rouge, sums, tokens = (numbers[drawn] for numbers in self._numbers)
        found = {EXACT_MATCH: float(right.mean()), ROUGE_L: float(rouge.mean())}
        if self._labelled:
            kinds, places = self._kinds
            counts = np.bincount(places[drawn], minlength=len(kinds)).tolist()
            confusion = {kind: count for kind, count in zip(kinds, counts, strict=True) if count}
            found |= {ACCURACY: found[EXACT_MATCH], MACRO_F1: macro_f1_of(confusion)}
        if self._losses:
            found[LOSS] = float(sums.sum() / tokens.sum())
        return found

    @cached_property
    def _numbers(self) -> list[np.ndarray[Any, Any]]:
        none = [0.0] * len(self.pairs)
        columns = (self.right, self._rouge, self._losses or none, self._target_tokens or none)
        return [np.array(column, dtype=np.float64) for column in columns]

    @cached_property
    def _kinds(self) -> tuple[list[tuple[str, str]], np.ndarray[Any, Any]]:
        """The different pairs, and for each record which of them it has."""
        kinds = list(dict.fromkeys(self.pairs))
        places = {kind: place for place, kind in enumerate(kinds)}
        return kinds, np.array([places[pair] for pair in self.pairs])


def differences(one: Judged, others: Mapping[str, Judged]) -> dict[str, dict[str, Estimate]]:
    """By the name of each other, and by metric: `one` less that, of the same records (paired bootstrap)."""

    def less(indices: Sequence[int]) -> dict[tuple[str, str], float]:
        drawn = np.asarray(indices)
        ours = one.measured(drawn)
        return {
            (name, metric): ours[metric] - value
            for name, other in others.items()
            for metric, value in other.measured(drawn).items()
            if metric in ours
        }

    records = len(one.pairs)
    found: dict[str, dict[str, Estimate]] = {name: {} for name in others}
    for (name, metric), estimate in bootstraps(less, records, _SEED).items():
        found[name][metric] = difference(estimate, records, bounded=metric != LOSS)
    return found


@dataclass(frozen=True, slots=True)
class Split:
    """How many of the same records two have right: both, one alone, the other alone, neither."""

    both: int
    only_one: int
    only_other: int
    neither: int

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float]) -> Split:
        """That of two lists with 1 for what is right and 0 for what isn't. Raises ValueError where their
        lengths differ."""
        seen = Counter(zip(one, other, strict=True))
        return cls(seen[1.0, 1.0], seen[1.0, 0.0], seen[0.0, 1.0], seen[0.0, 0.0])

    @property
    def p_value(self) -> float:
        """The probability of McNemar's test."""
        return sign_test(self.only_one, self.only_other)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the one is the tuned prompt."""
        return {
            "both": self.both,
            "only_tuned": self.only_one,
            "only_other": self.only_other,
            "neither": self.neither,
            "p_value": self.p_value,
        }


def _exp(value: float) -> float:
    return math.exp(min(value, _LARGEST_EXPONENT)) if math.isfinite(value) else value
