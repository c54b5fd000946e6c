"""Which prompt of a training is kept at its end."""

from __future__ import annotations

from collections.abc import Sequence

from caikit_pt.serving.request import Request
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.judged import Split
from caikit_pt.tuning.validation import JUDGED, Validation

_CHANCE = 0.01  # the probability of a difference that is taken for chance, at least


def choose(candidate: Candidate, validation: Validation, goes_on: bool) -> list[Request]:
    """Of labels, the mean of the last quarter's prompts is kept, unless the one with the lowest loss is
    clearly better at them; or, of a training that `goes_on` from a tuned prompt, not worse.

    The loss of labels rises long before fewer of them are right: with few records the lowest is often
    that of a prompt that has hardly begun to learn (docs/log.md). Returns the answers of what is kept.
    """
    assert candidate.best is not None, "a training with validation records has a best prompt"
    prompts = candidate.mean(), candidate.best.prompt
    asked = [validation.answers(prompt, JUDGED, calibration=True) for prompt in prompts]
    mean, lowest = map(validation.right, asked)
    is_better = sum(mean) > sum(lowest)
    candidate.keeps_mean = is_better if goes_on else not _clearly_more(lowest, mean)
    return asked[0 if candidate.keeps_mean else 1]


def _clearly_more(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether more is right by more than chance explains (McNemar), or twice as much; 1 or 0 a record.

    It takes a lot: the one with the lowest loss was chosen by these very records.
    """
    split = Split.of(one, other)
    is_more = split.only_one > split.only_other and split.p_value < _CHANCE
    return sum(one) > 2 * sum(other) or is_more
