"""Which examples of which tasks each update sees, where several tasks are trained together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.tuning.batches import updates_per_epoch, windows


@dataclass(frozen=True, slots=True)
class Mixed:
    """The update `step`, from 1 on, with the examples that it sees: task and index of each."""

    step: int
    epoch: int
    window: list[tuple[int, int]]
    ends_epoch: bool


class Mixture:
    """`num_epochs` walks through the examples of all tasks, shuffled together.

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
        import torch

        self.at = 0  # the update that was begun last
        self._lengths, self._by_length = lengths, by_length
        self._window, self._epochs = parameters.window, parameters.num_epochs
        self._drawn = [min(len(task), most) for task in lengths]
        self._order = torch.Generator().manual_seed(parameters.seed)
        self._epoch_began = self._order.get_state()

    @property
    def examples(self) -> int:
        """In an epoch, of all tasks."""
        return sum(self._drawn)

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch."""
        return updates_per_epoch(self.examples, self._window)

    @property
    def updates(self) -> int:
        """Updates in all."""
        return self._epochs * self.per_epoch

    @property
    def tokens_a_sample(self) -> float:
        """The mean over an epoch, of sources and targets."""
        means = [sum(task) / len(task) for task in self._lengths]
        return sum(mean * drawn for mean, drawn in zip(means, self._drawn, strict=True)) / self.examples

    def samples(self, step: int) -> int:
        """Examples that were seen after update `step`, each as often as it was."""
        whole, begun = divmod(step, self.per_epoch)
        return whole * self.examples + begun * self._window

    def left(self) -> Iterator[Mixed]:
        """The updates that are still to be made."""
        made = self.at
        for epoch in range(made // self.per_epoch + 1, self._epochs + 1):
            self._epoch_began = self._order.get_state()
            drawn = self._draw()
            lengths = [self._lengths[task][index] for task, index in drawn] if self._by_length else None
            cut = windows(len(drawn), self._window, self._order, lengths)
            for step, window in enumerate(list(cut), start=(epoch - 1) * self.per_epoch + 1):
                if step > made:
                    self.at = step
                    examples = [drawn[number] for number in window]
                    yield Mixed(step, epoch, examples, step % self.per_epoch == 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the walk is. What the seed makes again isn't in it."""
        ended = self.at % self.per_epoch == 0
        # Where the epoch at hand, or the next, began to draw.
        return {"done": self.at, "order": self._order.get_state() if ended else self._epoch_began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of a walk through the same examples."""
        self.at = state["done"]
        self._order.set_state(state["order"])

    def _draw(self) -> list[tuple[int, int]]:
        """The examples of an epoch, task by task."""
        import torch

        return [
            (task, index)
            for task, (lengths, drawn) in enumerate(zip(self._lengths, self._drawn, strict=True))
            for index in torch.randperm(len(lengths), generator=self._order)[:drawn].tolist()
        ]
