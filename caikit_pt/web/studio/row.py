"""A training as a line of a list, by its server-made page and by its script alike."""

from __future__ import annotations

from typing import Any

from caikit_pt.training import ENDED, Progress, Training
from caikit_pt.web.studio import shown

# What may be done with a training in which state.
_CANCEL, _PAUSE, _RESUME = "cancel", "pause", "resume"
_DOES = {"QUEUED": (_CANCEL, _PAUSE), "RUNNING": (_CANCEL, _PAUSE), "PAUSED": (_CANCEL, _RESUME)}


def row(training: Training) -> dict[str, Any]:
    """Plain values, all but ids and numbers as they are shown."""
    at = training.progress
    return {
        "id": training.training_id,
        "name": training.model_name,
        "makes": training.makes,
        "base_model": training.base_model,
        "state": training.state,
        "step": at.step if at else 0,
        "steps": at.steps if at else 0,
        "where": where(training),
        "loss": shown.number(at.loss) if at else "-",
        "validation_loss": shown.number(at.validation_loss) if at else "-",
        "submitted": f"{training.submitted:%Y-%m-%d %H:%M}" if training.submitted else "-",
        "took": took(training),
        "does": list(_DOES.get(training.state, ())),
        "ended": training.state in ENDED,
    }


def where(training: Training) -> str:
    """How far it is."""
    if training.state == "QUEUED" and training.queued_before:
        return f"{training.queued_before} before it"
    if training.state == "QUEUED":
        return "next"
    return reached(training.progress, training.state == "RUNNING") if training.progress else "-"


def reached(at: Progress, goes_on: bool = True) -> str:
    """Which update, and how long the rest will take."""
    to_go = f", about {shown.duration(at.eta_seconds)} to go" if goes_on else ""
    return f"update {at.step:,} of {at.steps:,}{to_go}"


def took(training: Training) -> str:
    """From its start to its end."""
    if not training.started or not training.ended:
        return "-"
    return shown.duration((training.ended - training.started).total_seconds())
