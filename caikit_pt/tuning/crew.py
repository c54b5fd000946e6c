"""The workers of one training: one leads, and tunes as it would alone; helpers do shares of each update.

Helpers know nothing but their base model. One that dies costs the others its share of the update that is
under way, and one that comes is among them from the next update on. Either way the bits are the same.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.tuning.errand import Errand, Taught
from caikit_pt.tuning.group import Group, GroupBroken
from caikit_pt.tuning.losses import Lessons

if TYPE_CHECKING:
    import torch

# Shares are much the same work: who takes so many times as long as who leads is stuck, or gone.
_PATIENCE, _LEAST_SECONDS = 20.0, 60.0


class Helpers(ABC):
    """Who knows the helpers that there are."""

    @abstractmethod
    def group(self) -> Group:
        """Those that are there now, and who leads them. Forms it anew where somebody came or is gone."""

    @abstractmethod
    def lost(self, error: GroupBroken) -> None:
        """Somebody of the group is gone. Raises where the training can't go on without."""


class Alone(Helpers):
    """None."""

    def group(self) -> Group:
        """See Helpers."""
        return Group()

    def lost(self, error: GroupBroken) -> None:
        """See Helpers."""
        raise AssertionError("nobody is there to be lost") from error


class Crew:
    """Who leads, with its `helpers`. `shares`: how many each update is cut into, so how many workers it is
    for."""

    def __init__(self, shares: int, helpers: Helpers | None = None) -> None:
        self._shares, self._helpers = shares, helpers or Alone()

    def backward(
        self,
        base: BaseModel,
        prompts: Sequence[PromptTensors],
        batch: TrainingBatch,
        weights: Sequence[float],
        lessons: Lessons | None = None,
    ) -> torch.Tensor:
        """See `losses.backward`: the same but for rounding, and the same bits whoever is there."""
        from caikit_pt.base_model.training.step import LeafPrompts

        leaves = LeafPrompts(prompts)
        taught = Taught.of(lessons) if lessons else None
        errand = Errand(leaves.prompts, batch, self._shares, weights, taught)
        gradients, rows = errand.split(self._done(base, errand))
        leaves.take(gradients)
        leaves.carry_on()
        return rows.float().to(base.weights.device)

    def losses(self, base: BaseModel, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
        """See `losses.losses`."""
        errand = Errand(prompts, batch, self._shares)
        return self._done(base, errand).float().to(base.weights.device)

    def _done(self, base: BaseModel, errand: Errand) -> torch.Tensor:
        """The sum of its shares [N], in float64."""
        while True:
            try:
                return self._together(self._helpers.group(), base, errand)
            except GroupBroken as error:
                self._helpers.lost(error)

    def _together(self, group: Group, base: BaseModel, errand: Errand) -> torch.Tensor:
        if group.size > 1:
            group.tell(errand.to_bytes())
        began = time.monotonic()
        parts = errand.shares(base, group.own(self._shares))
        patience = max(_LEAST_SECONDS, _PATIENCE * (time.monotonic() - began))
        return group.add(parts, self._shares, patience)


def help_with(base: BaseModel, group: Group) -> None:
    """Does what is its own of each errand, until it is told that there are no more. Raises GroupBroken."""
    while message := group.hear():
        errand = Errand.from_bytes(message)
        group.add(errand.shares(base, group.own(errand.count)), errand.count)
