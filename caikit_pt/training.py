"""A training as its user sees it: where it stands, what happens to it, what has come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from caikit_pt.plotting import figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUEUED, RUNNING, PAUSED = "QUEUED", "RUNNING", "PAUSED"
COMPLETED, CANCELED, ERRORED = "COMPLETED", "CANCELED", "ERRORED"
ENDED = (COMPLETED, CANCELED, ERRORED)
# What a training makes.
PROMPT, SOURCE = "prompt", "source"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands. Losses are nats a target token, None where they aren't finite; that of the
    validations is the best so far."""

    step: int
    steps: int
    epoch: int
    loss: float | None
    validation_loss: float | None
    learning_rate: float
    samples_per_second: float
    tokens_per_second: float
    seconds: float
    eta_seconds: float
    # Of a source: teachers, then sources.
    phase: str = ""

    def __str__(self) -> str:
        phase = f"{self.phase}: " if self.phase else ""
        validated = (
            "" if self.validation_loss is None else f", best validation loss {self.validation_loss:.4f}"
        )
        return f"{phase}epoch {self.epoch}, loss {_shown(self.loss)}{validated}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a training; `kind` is state, phase, progress, validation, checkpoint,
    warning, death, verdict, artifact or tracking."""

    number: int
    time: datetime
    kind: str
    text: str
    state: str
    progress: Progress | None
    data: Mapping[str, Any]

    def __str__(self) -> str:
        at = self.progress
        if at is not None:
            return (
                f"update {at.step} of {at.steps}, {at}, {at.samples_per_second:.3g} samples/s, "
                f"about {at.eta_seconds:.0f} s to go"
            )
        if self.kind == "validation":
            scores = ", ".join(
                f"{name} {_shown(value)}" for name, value in sorted(self.data["scores"].items())
            )
            best = ", the best" * self.data["best"]
            return f"validation at update {self.data['step']}{self._answered}: {scores}{best}"
        if self.kind == "checkpoint":
            return f"checkpoint at update {self.data['step']}"
        if self.kind == "artifact":
            return f"published as {self.data['model_name']}"
        if self.kind == "verdict":
            told = self.data.get("outcome", {}).get("sentence", "")
            return told or f"the course of the loss: {self.data.get('course', '')}"
        told = ": ".join(filter(None, (self.state, self.text)))
        return told if self.kind in ("state", "phase") else f"{self.kind}: {told}"

    @property
    def _answered(self) -> str:
        """Of a validation, where metrics are of fewer records than the loss."""
        answers, records = self.data.get("answers", 0), self.data.get("records", 0)
        return f", metrics of {answers} of {records} records" if answers < records else ""


@dataclass(frozen=True, slots=True, repr=False)
class Training:
    """A training; `parameters`, `verdict`, `points` and `outcome` only where it was asked for by its id.

    It `makes` a prompt, or a source of `tasks`. `path` is the name that is published, of a source with its
    version, once it has one.
    """

    training_id: str
    model_name: str
    base_model: str
    state: str
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    reasons: Sequence[str]
    queued_before: int
    progress: Progress | None
    path: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    makes: str = PROMPT
    tasks: Sequence[str] = ()
    # better, perhaps better, no better, worse or unknown; and the same in a sentence, with what to try next.
    outcome: str = ""
    outcome_text: str = ""

    def __repr__(self) -> str:
        at = f", update {self.progress.step} of {self.progress.steps}" if self.progress else ""
        return f"<Training {self.training_id!r} of {self.model_name!r}, {self.state}{at}>"

    def plot(self) -> Figure:
        """The loss curves so far, in a notebook as a picture. Raises PlotsUnavailable without matplotlib."""
        return figure_of({self.model_name: self.points}, f"{self.model_name} ({self.state})")


def _shown(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"
