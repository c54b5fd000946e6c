"""Trainings side by side: the parameters that differ, and what the validation records say of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.columns import aligned, cell
from caikit_pt.evaluation_report import METRICS, estimate
from caikit_pt.parameters.source import SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS

if TYPE_CHECKING:
    from caikit_pt.training import Training

_FACTS = ("training_id", "model_name", "base_model", "state", "validation_records", "kept_update")
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
    numbers = list(map(str, range(1, len(told["trainings"]) + 1)))
    yield from aligned(
        ["", *(name.replace("_", " ").upper() for name in _FACTS)],
        [
            [number, *(_plain(one[name]) for name in _FACTS)]
            for number, one in zip(numbers, told["trainings"], strict=True)
        ],
    )
    yield ""
    if told["parameters"]:
        rows = [
            [name, *(f"{_plain(one['value'])} ({one['origin']})" for one in values)]
            for name, values in told["parameters"].items()
        ]
        yield from aligned(["PARAMETER", *numbers], rows)
    else:
        yield "no parameter differs"
    if told["validation"]:
        yield ""
        rows = [
            [metric, *("-" if one is None else estimate(one) for one in values)]
            for metric, values in told["validation"].items()
        ]
        yield from aligned(["VALIDATION", *numbers], rows)
    if told["notes"]:
        yield ""
    for note in told["notes"]:
        yield f"- {note}"


def _who(training: Training) -> dict[str, Any]:
    verdict = training.verdict
    values = (
        training.training_id,
        training.model_name,
        training.base_model,
        training.state,
        verdict.get("validation_records"),
        verdict.get("kept", {}).get("step"),
    )
    return dict(zip(_FACTS, values, strict=True))


def _differing(trainings: Sequence[Training]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for parameter in (*TUNING_PARAMETERS, *SOURCE_PARAMETERS):
        values = [training.parameters.get(parameter.name) for training in trainings]
        if any(value != values[0] for value in values):
            origins = [training.parameters.get("origins", {}).get(parameter.name) for training in trainings]
            found[parameter.name] = [
                {"value": value, "origin": origin} for value, origin in zip(values, origins, strict=True)
            ]
    return found


def _validation(trainings: Sequence[Training]) -> dict[str, list[Any]]:
    scores = [_scores(training) for training in trainings]
    # The verdict's perplexity is no estimate, and says what the loss does.
    known = [name for name in METRICS if name != "perplexity" and any(name in one for one in scores)]
    return {name: [one.get(name) for one in scores] for name in known}


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
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "-" if value is None else cell(str(value))
