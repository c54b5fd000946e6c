"""Trainings of one base model that run at the same time share their forward passes.

Each training runs in a thread of its own. Where it wants the gradients of an update it waits a moment
for the others, and whoever completes the round computes those of all, every row behind its own prompt.
What a training gets doesn't depend on who was there, but for the last digits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from caikit_pt.base_model.frozen import BaseModel, TrainingBatch
from caikit_pt.tuning.learner import Gradients, Learner, gradients

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
# A training that validates or ends keeps the others waiting for no more than this share of a round.
_PATIENCE = 0.5


class _Wish:
    """The gradients that one training waits for."""

    def __init__(self, learners: Sequence[Learner], batches: Sequence[TrainingBatch]) -> None:
        self.learners, self.batches = learners, batches
        self.losses: list[torch.Tensor] | None = None
        self.refused = False


class Round:
    """The trainings of one base model that are under way, and the wishes of those that wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._members = 0
        self._wishes: list[_Wish] = []
        self._seconds = 0.0

    @contextmanager
    def member(self) -> Iterator[Gradients]:
        """Takes part: what it yields is to be called in the place of `gradients`."""
        with self._changed:
            self._members += 1
        try:
            yield self._gradients
        finally:
            with self._changed:
                self._members -= 1
                self._changed.notify_all()

    def _gradients(
        self, base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]
    ) -> list[torch.Tensor]:
        wish = _Wish(learners, batches)
        with self._changed:
            self._wishes.append(wish)
            try:
                self._wait_or_grant(base, wish)
            finally:
                if wish in self._wishes:
                    self._wishes.remove(wish)
        if wish.losses is None:
            # Together they failed: alone, only the one whose fault it is will.
            return gradients(base, learners, batches)
        return wish.losses

    def _wait_or_grant(self, base: BaseModel, wish: _Wish) -> None:
        self._changed.notify_all()
        deadline = time.monotonic() + _PATIENCE * self._seconds
        while wish.losses is None and not wish.refused:
            if len(self._wishes) >= self._members or time.monotonic() >= deadline:
                self._grant_all(base)
            else:
                self._changed.wait(max(0.0, deadline - time.monotonic()) + 0.001)

    def _grant_all(self, base: BaseModel) -> None:
        """All wishes in one go. Holds the lock: who comes meanwhile is in the next round."""
        wishes, self._wishes = self._wishes, []
        started = time.monotonic()
        try:
            losses = iter(
                gradients(
                    base,
                    [learner for wish in wishes for learner in wish.learners],
                    [batch for wish in wishes for batch in wish.batches],
                )
            )
            for wish in wishes:
                wish.losses = [next(losses) for _ in wish.learners]
        except Exception:
            # Each tries alone, and is told what is wrong with its own.
            _LOG.warning("joined trainings failed together and go on alone", exc_info=True)
        finally:
            for wish in wishes:
                wish.refused = wish.losses is None
            self._seconds = time.monotonic() - started
            self._changed.notify_all()


_ROUNDS: WeakKeyDictionary[BaseModel, Round] = WeakKeyDictionary()
_LOCK = threading.Lock()


def round_of(base: BaseModel) -> Round:
    """The one round of the trainings on `base`."""
    with _LOCK:
        return _ROUNDS.setdefault(base, Round())
