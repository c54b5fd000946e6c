"""Which examples each update of a training sees, from its first one or from where it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.tuning.batches import Window, updates_per_epoch, windows
from caikit_pt.tuning.examples import Examples


@dataclass(frozen=True, slots=True)
class Update:
    """The update `step`, from 1 on, with the indices of the examples that it sees."""

    step: int
    epoch: int
    window: Window
    ends_epoch: bool


class Epochs:
    """`num_epochs` walks through the examples, each in an order of its own, drawn by the seed."""

    def __init__(self, examples: Examples, parameters: TuningParameters, by_length: bool) -> None:
        """`by_length`: examples of much the same length share a window."""
        import torch

        self.at = 0  # the update that was begun last
        self._examples, self._parameters, self._by_length = examples, parameters, by_length
        self._order = torch.Generator().manual_seed(parameters.seed)
        self._epoch_began = self._order.get_state()

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch."""
        return updates_per_epoch(len(self._examples), self._parameters.window)

    @property
    def updates(self) -> int:
        """Updates in all."""
        return self._parameters.num_epochs * self.per_epoch

    @property
    def last_quarter(self) -> int:
        """The first update of the last quarter."""
        return self.updates - self.updates // 4 + 1

    def samples(self, step: int) -> int:
        """Examples that were seen after update `step`, each as often as it was."""
        whole, begun = divmod(step, self.per_epoch)
        return whole * len(self._examples) + begun * self._parameters.window

    def left(self) -> Iterator[Update]:
        """The updates that are still to be made."""
        made, lengths = self.at, self._examples.lengths if self._by_length else None
        for epoch in range(made // self.per_epoch + 1, self._parameters.num_epochs + 1):
            self._epoch_began = self._order.get_state()
            cut = list(windows(len(self._examples), self._parameters.window, self._order, lengths))
            for step, window in enumerate(cut, start=(epoch - 1) * self.per_epoch + 1):
                if step > made:
                    self.at = step
                    yield Update(step, epoch, window, step % self.per_epoch == 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the walk is. What the seed makes again isn't in it."""
        ended = self.at % self.per_epoch == 0
        # Where the epoch at hand, or the next, began to draw.
        return {"done": self.at, "order": self._order.get_state() if ended else self._epoch_began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of a walk through the same examples."""
        self.at = state["done"]
        self._order.set_state(state["order"])
