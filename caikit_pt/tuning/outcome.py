"""Whether a tuned prompt is worth using: beside its untuned base, and beside always giving one answer.

Each is compared on the same validation records, so that the interval of the difference says how sure it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from caikit_pt.tuning.course import DIVERGED, FLAT, STILL_IMPROVING
from caikit_pt.tuning.estimate import Estimate, difference, mean
from caikit_pt.tuning.judged import ACCURACY, ROUGE_L
from caikit_pt.tuning.metrics import exact_match, rouge_l

# From the worst to the best; of two comparisons the worse counts.
WORSE, NO_BETTER, PERHAPS_BETTER, BETTER = "worse", "no better", "perhaps better", "better"
UNKNOWN = "unknown"
_ORDER = (WORSE, NO_BETTER, PERHAPS_BETTER, BETTER)
UNTUNED, MAJORITY = "untuned", "majority"
_METRICS = {ACCURACY: "accuracy", ROUGE_L: "ROUGE-L"}
_WHO = {UNTUNED: "the untuned base", MAJORITY: "always giving the commonest answer"}
_MORE_RECORDS = "More records to validate with tell how sure that is."
_TEST = "Test it on records that it hasn't seen: caikit-pt evaluate."
_MORE_EPOCHS = "The loss still falls: try more num_epochs."
_OF_COURSE = {
    DIVERGED: "The loss rose: try a smaller learning_rate.",
    FLAT: "The loss didn't clearly fall; few updates tell little: try more num_epochs or search auto.",
    STILL_IMPROVING: _MORE_EPOCHS,
}
_OTHERWISE = (
    "Try search auto, more num_virtual_tokens, or another base model, and look at the records: caikit-pt "
    "evaluate --wrong FILE writes what was answered wrongly."
)


def outcome(
    outputs: Sequence[str], tuned: Sequence[str], untuned: Sequence[str], labelled: bool, course: str
) -> dict[str, Any]:
    """Plain values: what was `found` (one of those above), by which `metric` of so many `records`; the value
    of the `tuned` prompt; of the `untuned` base and, where answers are labels, of the `majority`, its value
    and by how much that of the prompt is above it (value, low, high: 95 %); a `sentence`, and what to try
    `next`.

    `tuned` and `untuned` are the answers to records with these `outputs`; `course` is how the loss went.
    Raises ValueError without records.
    """
    answered = {UNTUNED: list(untuned)}
    if labelled:
        commonest, _ = Counter(output.strip() for output in outputs).most_common(1)[0]
        answered[MAJORITY] = [commonest] * len(outputs)
    metric, judge = (ACCURACY, exact_match) if labelled else (ROUGE_L, rouge_l)
    ours = judge(tuned, outputs)
    others = {name: judge(answers, outputs) for name, answers in answered.items()}
    told: dict[str, Any] = {
        "metric": metric,
        "records": len(outputs),
        "tuned": mean(ours).value,
        **{
            name: {"value": mean(theirs).value, "difference": _above(ours, theirs).to_dict()}
            for name, theirs in others.items()
        },
    }
    rival = min(others, key=lambda name: _ORDER.index(_standing(told[name]["difference"])))
    found = _standing(told[rival]["difference"])
    return {"found": found, **told, "sentence": _sentence(found, rival, told), "next": _next(found, course)}


def unknown(course: str) -> dict[str, Any]:
    """The same of a training without validation records."""
    sentence = (
        "Whether the prompt is better than the untuned base isn't known: there were no validation records."
    )
    return {"found": UNKNOWN, "sentence": sentence, "next": _OF_COURSE.get(course, _TEST)}


def in_words(outcome: Mapping[str, Any]) -> str:
    """The sentence, and what to try next; empty for that of an earlier release, which knew of none."""
    return f"{outcome['sentence']} {outcome['next']}" if outcome else ""


def _above(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """By how much ours are higher, record by record. (A bootstrap of these says the same, and takes as long
    as many a small training.)"""
    found = mean([one - other for one, other in zip(ours, theirs, strict=True)]).within(-1.0, 1.0)
    return difference(found, len(ours), bounded=True)


def _standing(difference: Mapping[str, Any]) -> str:
    """How sure it is that a difference is one. Its limits are shares, which are always known."""
    if difference["low"] > 0:
        return BETTER
    if difference["high"] < 0:
        return WORSE
    return PERHAPS_BETTER if difference["value"] > 0 else NO_BETTER


def _sentence(found: str, rival: str, told: Mapping[str, Any]) -> str:
    """Such as `Better than the untuned base: ...`."""
    other = told[rival]
    value, low, high = (f"{other['difference'][name]:+.3f}" for name in ("value", "low", "high"))
    said = f"{_METRICS[told['metric']]} {told['tuned']:.3f} against {other['value']:.3f}"
    sure = f"{value} [{low}, {high}], 95 % sure, by {told['records']} validation records"
    chance = "; that may be chance" if found == PERHAPS_BETTER else ""
    beside = "".join(
        f"; {_WHO[name]} has {told[name]['value']:.3f}" for name in _WHO if name in told and name != rival
    )
    return f"{found.capitalize()} than {_WHO[rival]}: {said} ({sure}{chance}){beside}."


def _next(found: str, course: str) -> str:
    """What to try."""
    if found == BETTER:
        return _MORE_EPOCHS if course == STILL_IMPROVING else _TEST
    if found == PERHAPS_BETTER:
        return _MORE_RECORDS
    return _OF_COURSE.get(course, _OTHERWISE)
