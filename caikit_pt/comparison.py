"""Trainings side by side: the parameters that differ, and what the validation records say of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.columns import aligned
from caikit_pt.evaluation_report import estimate
from caikit_pt.parameters.tuning import TUNING_PARAMETERS

if TYPE_CHECKING:
    from caikit_pt.client import Training

_NOT_METRICS = ("perplexity",)
_EVALUATE = "caikit-pt evaluate NAME --against OTHER --test FILE compares them on the same records"


def comparison(trainings: Sequence[Training]) -> dict[str, Any]:
    """As plain values.

    `trainings`: id, model, base model, state and update that is kept. `parameters`: those that differ, by
    name, value and origin for each training. `validation`: each metric, an estimate (value, low, high: 95 %)
    for each training, or None. `notes`: what keeps these from being compared.
    """
    return {
        "trainings": [_who(training) for training in trainings],
        "parameters": _differing(trainings),
        "validation": _validation(trainings),
        "notes": list(_notes(trainings)),
    }


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """What `comparison` has found, for a person."""
    who = told["trainings"]
    names = [one["training_id"] for one in who]
    facts = ("model_name", "base_model", "state", "validation_records", "kept_update")
    yield from aligned(["TRAINING", *names], [[fact, *(_plain(one[fact]) for one in who)] for fact in facts])
    yield ""
    if told["parameters"]:
        rows = [
            [name, *(f"{_plain(one['value'])} ({one['origin']})" for one in values)]
            for name, values in told["parameters"].items()
        ]
        yield from aligned(["PARAMETER", *names], rows)
    else:
        yield "no parameter differs"
    if told["validation"]:
        yield ""
        rows = [
            [metric, *("-" if one is None else estimate(one) for one in values)]
            for metric, values in told["validation"].items()
        ]
        yield from aligned(["VALIDATION", *names], rows)
    if told["notes"]:
        yield ""
    for note in told["notes"]:
        yield f"- {note}"


def _who(training: Training) -> dict[str, Any]:
    verdict = training.verdict
    return {
        "training_id": training.training_id,
        "model_name": training.model_name,
        "base_model": training.base_model,
        "state": training.state,
        "validation_records": verdict.get("validation_records"),
        "kept_update": verdict.get("kept", {}).get("step"),
    }


def _differing(trainings: Sequence[Training]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for parameter in TUNING_PARAMETERS:
        values = [training.parameters.get(parameter.name) for training in trainings]
        if any(value != values[0] for value in values):
            origins = [training.parameters.get("origins", {}).get(parameter.name) for training in trainings]
            found[parameter.name] = [
                {"value": value, "origin": origin} for value, origin in zip(values, origins, strict=True)
            ]
    return found


def _validation(trainings: Sequence[Training]) -> dict[str, list[Any]]:
    scores = [_scores(training) for training in trainings]
    metrics = dict.fromkeys(metric for one in scores for metric in one if metric not in _NOT_METRICS)
    return {metric: [one.get(metric) for one in scores] for metric in metrics}


def _scores(training: Training) -> Mapping[str, Any]:
    found: Mapping[str, Any] = training.verdict.get("validation", {}).get("tuned", {})
    return found


def _notes(trainings: Sequence[Training]) -> Iterator[str]:
    missing = [training.training_id for training in trainings if not _scores(training)]
    if missing:
        yield f"{', '.join(missing)}: nothing is known of how it does on validation records"
    judged = [training for training in trainings if _scores(training)]
    digests = {training.verdict.get("validation_digest") for training in judged}
    if len(judged) > 1 and len(digests) > 1:
        yield f"they were validated on different records, so these numbers can't be compared: {_EVALUATE}"
    elif len(judged) > 1 and None in digests:
        yield f"whether they were validated on the same records isn't known: {_EVALUATE}"
    if len({training.base_model for training in judged}) > 1:
        yield "their base models differ: losses are of other tokens, and can't be compared"


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)
