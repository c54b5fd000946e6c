"""What a training's loss gives cause to doubt while it runs."""

from __future__ import annotations

import logging

from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.course import DIVERGED, FLAT, SETTLED, course
from caikit_pt.tuning.whose import warn

_LOG = logging.getLogger(__name__)
_LOOKS = 10  # in a training
# Updates. `course` then compares ten with ten; of fewer the noise of a short training looks flat.
_FEWEST_TO_BE_FLAT = 40
_WORDS = {FLAT: "the loss is flat", DIVERGED: "the loss is diverging"}


class Doubts:
    """Warns once where the loss of a training of so many `updates` doesn't fall, and once where it rises."""

    def __init__(self, updates: int) -> None:
        self._updates = updates
        self._told: set[str] = set()

    def look(self, candidate: Candidate, step: int) -> None:
        """At the curve of `candidate` up to update `step`, ten times in a training."""
        if step % max(1, self._updates // _LOOKS) or step == self._updates:
            return
        found = course([point.loss for point in candidate.curve]) if candidate.curve else SETTLED
        is_early = step < max(self._updates / 4, _FEWEST_TO_BE_FLAT)
        if found in _WORDS and found not in self._told and not (found == FLAT and is_early):
            self._told.add(found)
            warn(_LOG, f"{_WORDS[found]} at update {step} of {self._updates}")
