"""The losses of a training's updates, read from the device now and then, and how many weren't made."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import TrainingDiverged
from caikit_pt.tuning.whose import warn

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
# On a GPU, losses are fetched every so many updates: fetching one waits for all that was computed before.
_UPDATES_TO_A_LOOK = 10
# So many updates in a row that can't be made end the training: nothing will change any more.
MOST_SKIPPED = 5


@dataclass(frozen=True, slots=True)
class Point:
    """An update on the loss curve, read from the device. `made` is false where the update was skipped."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    made: bool


@dataclass(slots=True)
class _Pending:
    """An update whose loss is still on the device."""

    epoch: int
    step: int
    learning_rate: float
    loss: torch.Tensor
    made: torch.Tensor


class Curve:
    """That of a training of so many `updates`."""

    def __init__(self, updates: int) -> None:
        self.points: list[Point] = []
        self.skipped = 0
        self._updates, self._in_a_row = updates, 0
        self._pending: list[_Pending] = []

    @property
    def diverged(self) -> bool:
        """Whether there is no point in going on."""
        return self._in_a_row >= MOST_SKIPPED

    def updated(self, epoch: int, step: int, rate: float, loss: torch.Tensor, made: torch.Tensor) -> None:
        """Remembers an update without waiting for its loss."""
        self._pending.append(_Pending(epoch, step, rate, loss, made))

    def read(self) -> list[Point]:
        """The updates since the last call, in one transfer from the device. Warns of skipped ones."""
        import torch

        pending, self._pending = self._pending, []
        if not pending:
            return []
        values = torch.stack([item.loss for item in pending]).tolist()
        made = torch.stack([item.made for item in pending]).tolist()
        points = [
            Point(item.epoch, item.step, value, item.learning_rate, ok)
            for item, value, ok in zip(pending, values, made, strict=True)
        ]
        for point in points:
            self._count(point)
        self.points += points
        return points

    def diverging(self, learning_rate: float) -> TrainingDiverged:
        """What to raise where it has diverged."""
        last = [point for point in self.points if not point.made][-1]
        return TrainingDiverged(
            f"The {_not_finite(last)} is not finite at update {last.step} of {self._updates}, nor at the "
            f"{MOST_SKIPPED - 1} before it. Try a smaller learning_rate than "
            f"{learning_rate:g}, or torch_dtype float32 or bfloat16 where it is float16."
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it. Updates must have been read."""
        assert not self._pending
        return {
            "curve": [astuple(point) for point in self.points],
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was."""
        self.points = [Point(*values) for values in state["curve"]]
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def _count(self, point: Point) -> None:
        if point.made:
            # On a GPU many updates are read at once, and the end of one may be followed by good ones.
            self._in_a_row = self._in_a_row if self.diverged else 0
            return
        self.skipped += 1
        self._in_a_row += 1
        where = f"at update {point.step} of {self._updates}"
        warn(_LOG, f"the {_not_finite(point)} is not finite {where}, which is skipped")


def is_read_after(step: int, updates: int, device: torch.device) -> bool:
    """Whether losses are fetched from `device` after the update `step` of so many."""
    return step == updates or device.type == "cpu" or step % _UPDATES_TO_A_LOOK == 0


def _not_finite(point: Point) -> str:
    return "gradient" if math.isfinite(point.loss) else "loss"
