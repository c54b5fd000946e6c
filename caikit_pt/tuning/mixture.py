"""Which examples of which tasks each update sees, where several tasks are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.tuning.batches import windows
from caikit_pt.tuning.walk import Walk

if TYPE_CHECKING:
    import torch

# Its task and its index there.
OfTask = tuple[int, int]


class Mixture(Walk[OfTask]):
    """Walks through the examples of all tasks, shuffled together.

    A walk is a draw without replacement of up to `most` examples of each task, by the seed: tasks are seen in
    the proportion of their sizes, as far as the cap lets them (Raffel et al. 2020, arXiv 1910.10683).
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        most: int,
        parameters: TuningParameters,
        by_length: bool = False,
    ) -> None:
        """`lengths`: of each task, the tokens of each example. `by_length`: examples of much the same length
        share a window."""
        self._lengths, self._by_length = lengths, by_length
        self._drawn = [min(len(task), most) for task in lengths]
        super().__init__(sum(self._drawn), parameters)

    @property
    def tokens_a_sample(self) -> float:
        """The mean over an epoch, of sources and targets."""
        means = [sum(task) / len(task) for task in self._lengths]
        return sum(mean * drawn for mean, drawn in zip(means, self._drawn, strict=True)) / self.examples

    def _windows(self, window: int, order: torch.Generator) -> Sequence[Sequence[OfTask]]:
        drawn = self._draw(order)
        lengths = [self._lengths[task][index] for task, index in drawn] if self._by_length else None
        return [[drawn[number] for number in one] for one in windows(len(drawn), window, order, lengths)]

    def _draw(self, order: torch.Generator) -> list[OfTask]:
        """The examples of an epoch, task by task."""
        import torch

        return [
            (task, index)
            for task, (lengths, drawn) in enumerate(zip(self._lengths, self._drawn, strict=True))
            for index in torch.randperm(len(lengths), generator=order)[:drawn].tolist()
        ]
