"""How good answers are: scores of each record, and of all of them with what so few records leave open.

Answers and outputs are texts, in the same order. White space around them doesn't count, case does,
but for ROUGE.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from caikit_pt.tuning.estimate import Estimate, bootstrap, mean, proportion

_MOST_LABELS = 50
_RECORDS_PER_LABEL = 4
_BINS = 10
_SEED = 73  # of the resamples: the same answers always have the same interval
# Letters of scripts that put no space between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff])"
)


def scores(task: str, answers: Sequence[str], outputs: Sequence[str]) -> Mapping[str, Estimate]:
    """What a tuning task is judged by, by name: each between 0 and 1, with its 95 % interval.

    classification: accuracy and macro_f1. summarization: rouge_l. generation: exact_match and rouge_l.
    Raises ValueError for another task, without records, and for lists of different length.
    """
    if task not in ("classification", "generation", "summarization"):
        raise ValueError(f"no metrics for the task {task}")
    if task == "summarization":
        return {"rouge_l": mean_score(rouge_l(answers, outputs))}
    exact = proportion(exact_match(answers, outputs))
    if task == "classification":
        return {"accuracy": exact, "macro_f1": _macro_f1_estimate(answers, outputs)}
    return {"exact_match": exact, "rouge_l": mean_score(rouge_l(answers, outputs))}


def calibration_error(sure: Sequence[float], right: Sequence[float]) -> Estimate:
    """The expected calibration error (Guo et al. 2017): how far, on average, the share of right answers is
    from the probabilities that they were given with, in ten bins of equal width.

    `sure` are the probabilities of the answers, `right` is 1 or 0 for each. Raises ValueError without any.
    """
    return bootstrap(
        lambda indices: _calibration_error([(sure[index], right[index]) for index in indices]),
        n=len(sure),
        seed=_SEED,
    )


def exact_match(answers: Sequence[str], outputs: Sequence[str]) -> list[float]:
    """For each record 1 where the answer is the expected output, else 0."""
    return [float(answer.strip() == output.strip()) for answer, output in zip(answers, outputs, strict=True)]


def rouge_l(answers: Sequence[str], outputs: Sequence[str]) -> list[float]:
    """For each record ROUGE-L (Lin 2004), the F1 of the longest common subsequence of words.

    Words are lower-cased runs of letters, marks and digits of any script; in scripts without spaces
    each letter is one. The package rouge_score keeps a-z and 0-9 alone, so that it cuts "café" to
    "caf" and finds nothing in Russian; on ASCII text the scores are equal (without its stemmer).
    An output without any word, such as an emoji, scores as in `exact_match`.
    """
    return [_rouge_l(answer, output) for answer, output in zip(answers, outputs, strict=True)]


def macro_f1(answers: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over all labels of F1, as scikit-learn's
    `f1_score(labels, answers, average="macro", labels=sorted(set(labels)))`.

    Only what is expected somewhere is a label: an answer that is none counts against its record's
    label, and adds no label of its own. Raises ValueError without records.
    """
    return macro_f1_of(Counter(_pairs(answers, labels)))


def macro_f1_of(confusion: Mapping[tuple[str, str], int]) -> float:
    """`macro_f1` from how often each pair of answer and label occurs, both stripped."""
    answered: dict[str, int] = defaultdict(int)
    expected: dict[str, int] = defaultdict(int)
    for (answer, label), count in confusion.items():
        answered[answer] += count
        expected[label] += count
    if not expected:
        raise ValueError("no records to estimate from")
    return fmean(
        2 * confusion.get((label, label), 0) / (answered.get(label, 0) + count)
        for label, count in expected.items()
    )


def mean_score(values: Sequence[float]) -> Estimate:
    """The mean of scores from 0 to 1. Where each is the one or the other, it is a proportion:
    a mean of equal values would claim to be exact."""
    if set(values) <= {0.0, 1.0}:
        return proportion(values)
    return mean(values).within(0.0, 1.0)


def label_set(outputs: Sequence[str]) -> frozenset[str] | None:
    """The labels, where the outputs look like those of classes: few different ones, each used often.

    That is from 2 to 50 different ones, and on average at least four records for each. A label may
    be rarer than that, as one of unbalanced classes is. None otherwise.
    """
    labels = frozenset(output.strip() for output in outputs)
    few = 2 <= len(labels) <= _MOST_LABELS
    return labels if few and len(outputs) >= _RECORDS_PER_LABEL * len(labels) else None


def _macro_f1_estimate(answers: Sequence[str], labels: Sequence[str]) -> Estimate:
    """Macro F1 with a bootstrap interval; a resample counts the labels that it holds."""
    pairs = _pairs(answers, labels)
    right = [float(answer == label) for answer, label in pairs]
    if len(set(right)) < 2:
        # All right or all wrong, and so is every resample: macro F1 is the accuracy then.
        return proportion(right)
    return bootstrap(
        lambda indices: macro_f1_of(Counter(map(pairs.__getitem__, indices))), n=len(pairs), seed=_SEED
    )


def _pairs(answers: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    return [(answer.strip(), label.strip()) for answer, label in zip(answers, labels, strict=True)]


def _calibration_error(answers: Sequence[tuple[float, float]]) -> float:
    gaps = [0.0] * _BINS
    for sure, right in answers:
        gaps[min(int(sure * _BINS), _BINS - 1)] += right - sure
    return math.fsum(map(abs, gaps)) / len(answers)


def _rouge_l(answer: str, output: str) -> float:
    said, expected = _words(answer), _words(output)
    if not expected:
        return float(answer.strip() == output.strip())
    # 2PR / (P + R) with precision common / said and recall common / expected.
    return 2 * _common(said, expected) / (len(said) + len(expected))


def _words(text: str) -> list[str]:
    """By category and not by `\\w`, which cuts Hindi and vowelled Arabic at every mark."""
    normal = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in normal)
    return _UNSPACED.sub(r" \1 ", kept).split()


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table in one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & everywhere
    return len(first) - row.bit_count()
