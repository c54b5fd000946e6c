"""How much a pass takes on, for all who train on one copy of a model: as much as has been found to fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.loading.memory import is_out_of_memory, release_memory

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class MemoryBudget:
    """The largest budget that memory has room for."""

    def __init__(self, name: str, device: torch.device, budget: Budget) -> None:
        """`budget`: what to begin with on `device`; `name`: of the model, for the log."""
        self.budget = budget
        self._name, self._device = name, device

    def fit(self, compute: Callable[[Budget], _T], keeps_activations: bool = False) -> _T:
        """`compute` with the largest budget that memory has room for; the next call begins with it.

        What `keeps_activations` and doesn't fit row by row is tried with layers that are computed twice. What
        doesn't fit even then leaves the budget as it was: it is no measure for others. Raises what `compute`
        raises.
        """
        before = self.budget
        while True:
            try:
                return compute(self.budget)
            except RuntimeError as error:
                smaller = self.budget.halved()
                if smaller.positions < 1 and keeps_activations and not smaller.recompute:
                    smaller = replace(before, recompute=True)
                if not is_out_of_memory(error) or smaller.positions < 1:
                    self.budget = before
                    raise
            # Behind the handler: what the error holds is let go of.
            release_memory(self._device)
            self.budget = smaller
            _LOG.warning(
                "%s: out of memory; passes of %d positions from now on%s. An update is as large as before",
                self._name,
                smaller.positions,
                ", every layer computed twice" if smaller.recompute else "",
            )
