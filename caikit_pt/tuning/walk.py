"""Which examples each update of a training sees, from its first one or from where it was interrupted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.tuning.batches import updates_per_epoch

if TYPE_CHECKING:
    import torch

# What names an example.
_Example = TypeVar("_Example")


@dataclass(frozen=True, slots=True)
class Update(Generic[_Example]):
    """The update `step`, from 1 on, with the examples that it sees."""

    step: int
    epoch: int
    window: Sequence[_Example]
    ends_epoch: bool


class Walk(ABC, Generic[_Example]):
    """`num_epochs` walks through so many `examples`, each in an order of its own, drawn by the seed."""

    def __init__(self, examples: int, parameters: TuningParameters) -> None:
        import torch

        self.at = 0  # the update that was begun last
        self.examples = examples  # in an epoch
        self._window, self._epochs = parameters.window, parameters.num_epochs
        self._order = torch.Generator().manual_seed(parameters.seed)
        self._epoch_began = self._order.get_state()

    @abstractmethod
    def _windows(self, window: int, order: torch.Generator) -> Sequence[Sequence[_Example]]:
        """The windows of an epoch, of up to so many examples, drawn by `order`."""

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch."""
        return updates_per_epoch(self.examples, self._window)

    @property
    def updates(self) -> int:
        """Updates in all."""
        return self._epochs * self.per_epoch

    def samples(self, step: int) -> int:
        """Examples that were seen after update `step`, each as often as it was."""
        whole, begun = divmod(step, self.per_epoch)
        return whole * self.examples + begun * self._window

    def left(self) -> Iterator[Update[_Example]]:
        """The updates that are still to be made."""
        made = self.at
        for epoch in range(made // self.per_epoch + 1, self._epochs + 1):
            self._epoch_began = self._order.get_state()
            cut = self._windows(self._window, self._order)
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
