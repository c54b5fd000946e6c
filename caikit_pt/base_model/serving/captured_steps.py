"""The captured steps of one store, by shape: each is tried against the plain step when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from caikit_pt.base_model.loading.memory import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.layers.captured import Capture, CapturedStep

_LOG = logging.getLogger(__name__)
# Of the largest logit. A repetition runs the same kernels, which may add up in another order.
_TOLERANCE = 1e-3
_MOST = 128  # shapes, of which the oldest are captured anew when they come again


@dataclass(slots=True)
class Capturing:
    """How steps of the model `name` are captured: None where they aren't, and from the first failure on."""

    name: str
    capture: Capture | None = None


class CapturedSteps:
    """Takes steps by captured ones where these compute the same; from the first that doesn't on, plainly."""

    def __init__(self, capturing: Capturing) -> None:
        self._capturing = capturing
        self._captured: dict[Hashable, CapturedStep] = {}

    def clear(self) -> None:
        """What was captured lies elsewhere now, and has to be captured again."""
        self._captured.clear()

    def take(
        self, shape: Hashable, step: Callable[[], Tensor], take_back: Callable[[], None], rows: int
    ) -> Tensor:
        """The result [R, V] of a `step` of this shape, of which `rows` count. `take_back` undoes a step."""
        if self._capturing.capture is None:
            return step()
        if shape in self._captured:
            return self._captured[shape].replay()
        result = step()
        expected = result[:rows].clone()
        if not bool(torch.isfinite(expected).all()):
            return result  # nothing to compare with; another time
        take_back()
        try:
            captured = self._capturing.capture(step, take_back)
            take_back()
            seen = captured.replay()
            wrong = "" if _agree(expected, seen[:rows]) else "what is repeated isn't what was captured"
        except Exception as error:  # whatever a model does that can't be captured
            if is_out_of_memory(error):
                raise
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            _LOG.warning("Steps of %s aren't captured: %s", self._capturing.name, wrong)
            self._capturing.capture = None
            self.clear()
            take_back()
            return step()
        while len(self._captured) >= _MOST:
            del self._captured[next(iter(self._captured))]
        self._captured[shape] = captured
        return seen


def _agree(expected: Tensor, seen: Tensor) -> bool:
    tolerance = max(_TOLERANCE, 4 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return bool(((expected - seen).abs().max() <= tolerance).item())
