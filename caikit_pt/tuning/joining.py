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
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.tuning.learner import Gradients, Learner, gradients

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
# A training that validates or ends keeps the others waiting for no more than this share of a round.
_PATIENCE = 0.5
# Nobody waits longer without a look at whether those he waits for are still there.
_LONGEST_NAP = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Grant:
    """A computation of the gradients of all who wait, by one of their threads."""

    thread: threading.Thread


class _Wish:
    """The gradients that one training waits for; `grant` is the computation that they are part of."""

    def __init__(self, learners: Sequence[Learner], batches: Sequence[TrainingBatch]) -> None:
        self.learners, self.batches = learners, batches
        self.thread = threading.current_thread()
        self.since = time.monotonic()
        self.grant: _Grant | None = None
        self.losses: list[torch.Tensor] | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, seconds: float) -> None:
        """Until somebody rings, or so long."""
        self._bell.acquire(timeout=max(0.0, min(seconds, _LONGEST_NAP)))

    def ring(self) -> None:
        """Something has changed. Under the lock of the round."""
        if self._bell.locked():
            self._bell.release()


class Round:
    """The trainings of one base model that are under way, and the wishes of those that wait.

    A training may be ended by an exception that is raised in its thread at any point, and the thread may
    go on with something else. So a thread that is gone counts for nothing, whoever leaves a call lets go
    of all that it had taken on, and all locks are taken by `with` on a plain lock, where no such exception
    can come between the taking and the letting go (within a Condition it can).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: set[threading.Thread] = set()
        self._wishes: list[_Wish] = []
        self._grant: _Grant | None = None
        self._seconds = 0.0
        self._ended = 0.0

    @contextmanager
    def member(self) -> Iterator[Gradients]:
        """Takes part: what it yields is to be called, in this thread, in the place of `gradients`."""
        thread = threading.current_thread()
        try:
            with self._lock:
                self._members.add(thread)
            yield self._gradients
        finally:
            try:
                self._let_go(thread, leaves=True)
            finally:
                # The exception may have come in the midst of the first.
                self._let_go(thread, leaves=True)

    def _gradients(
        self, base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]
    ) -> list[torch.Tensor]:
        wish = _Wish(learners, batches)
        try:
            with self._lock:
                self._wishes.append(wish)
            while self._is_open(wish):
                if wishes := self._turn(wish):
                    self._compute(base, wishes)
                else:
                    wish.wait(self._deadline(wish) - time.monotonic())
        finally:
            self._let_go(wish.thread)
        if wish.losses is None:
            # Together they failed: alone, only the one whose fault it is will.
            return gradients(base, learners, batches)
        return wish.losses

    def _is_open(self, wish: _Wish) -> bool:
        """Whether there is anything to wait for: not where a grant has ended without these losses."""
        return wish.losses is None and (wish.grant is None or wish.grant is self._under_way)

    @property
    def _under_way(self) -> _Grant | None:
        """The grant that somebody is at."""
        grant = self._grant
        return grant if grant is not None and grant.thread.is_alive() else None

    def _turn(self, wish: _Wish) -> list[_Wish]:
        """All wishes, where it is on this one's thread to grant them: everybody is there, or is late."""
        with self._lock:
            if wish.grant is not None or self._under_way is not None:
                return []
            members = sum(thread.is_alive() for thread in self._members)
            wishes = [one for one in self._wishes if one.grant is None and one.thread.is_alive()]
            if len(wishes) < members and time.monotonic() < self._deadline(wish):
                return []
            self._grant = _Grant(wish.thread)
            for taken in wishes:
                taken.grant = self._grant
            return wishes

    def _compute(self, base: BaseModel, wishes: Sequence[_Wish]) -> None:
        """All of `wishes` in one go. Who comes meanwhile is in the next round."""
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
            with self._lock:
                self._grant = None
                self._ended = time.monotonic()
                self._seconds = self._ended - started
                self._ring()

    def _let_go(self, thread: threading.Thread, leaves: bool = False) -> None:
        """Nobody waits any longer for what `thread` has taken on, nor, if it `leaves`, for its wishes."""
        with self._lock:
            self._wishes = [wish for wish in self._wishes if wish.thread is not thread]
            if self._grant is not None and self._grant.thread is thread:
                self._grant = None
            if leaves:
                self._members.discard(thread)
            self._ring()

    def _deadline(self, wish: _Wish) -> float:
        """When `wish` has waited long enough for others; while a round goes on it waits for its end."""
        if self._under_way is not None:
            return time.monotonic() + _LONGEST_NAP
        return max(wish.since, self._ended) + _PATIENCE * self._seconds

    def _ring(self) -> None:
        for wish in self._wishes:
            wish.ring()


_ROUNDS: WeakKeyDictionary[BaseModel, Round] = WeakKeyDictionary()
_LOCK = threading.Lock()


def round_of(base: BaseModel) -> Round:
    """The one round of the trainings on `base`."""
    with _LOCK:
        return _ROUNDS.setdefault(base, Round())
