"""What a tracker is told of a training, and what one has to be able to do.

A training may be told of again from its start, as after a restart of the server: what a tracker has, it
leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from caikit_pt.errors import CaikitPtError
from caikit_pt.tracking.point import Point

# How a training ends, in MLflow's words.
FINISHED, KILLED, FAILED = "FINISHED", "KILLED", "FAILED"


class Refused(CaikitPtError):
    """A tracker won't have something, and would say the same if it was asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What there is to tell from the start. `started` is seconds since 1970."""

    id: str
    name: str
    # Resolved, with `origins`.
    parameters: Mapping[str, Any]
    started: float

    @property
    def values(self) -> dict[str, str]:
        """Each parameter as text."""
        return {name: _text(value) for name, value in self.parameters.items() if name != "origins"}

    @property
    def origins(self) -> dict[str, str]:
        """Where the values came from that aren't defaults."""
        origins = self.parameters.get("origins", {})
        return {name: origin for name, origin in origins.items() if origin != "default"}


class Track(Protocol):
    """One training at a tracker. Everything raises Refused, or anything else where another try may help."""

    # Where a person finds it.
    address: str

    def log(self, points: Sequence[Point]) -> None:
        """Those that it hasn't got; those of one name come in the order of their steps."""

    def end(self, state: str, text: str, time: float) -> None:
        """FINISHED, KILLED or FAILED; what came of it, or the reason; seconds since 1970."""

    def keep(self, artifact: Path, model_name: str) -> None:
        """The files of the tuned prompt, and a version under `model_name` where it isn't empty. Comes last:
        whatever becomes of it, the training has its end."""


class Tracker(Protocol):
    """MLflow, TensorBoard ..."""

    name: str
    keeps_prompts: bool

    def open(self, training: Training) -> Track:
        """Begins with a training, or goes on where it was left. May take long, and raises as Track does."""


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
