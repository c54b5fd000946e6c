"""Which of its examples each update of a training of one task sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.tuning.batches import Window, windows
from caikit_pt.tuning.examples import Examples
from caikit_pt.tuning.walk import Walk

if TYPE_CHECKING:
    import torch


class Epochs(Walk[int]):
    """Walks through all examples, named by their indices."""

    def __init__(self, examples: Examples, parameters: TuningParameters, by_length: bool) -> None:
        """`by_length`: examples of much the same length share a window."""
        super().__init__(len(examples), parameters)
        self._lengths = examples.lengths if by_length else None

    @property
    def last_quarter(self) -> int:
        """The first update of the last quarter."""
        return self.updates - self.updates // 4 + 1

    def _windows(self, window: int, order: torch.Generator) -> Sequence[Window]:
        return list(windows(self.examples, window, order, self._lengths))
