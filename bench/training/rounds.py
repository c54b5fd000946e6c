"""One interleaved run: every contender in turn, round by round, so that a slow minute is shared."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.training.clock import seconds

# Seconds of a contender after which it sits out: the peer's loop takes most of a run's time.
_ENOUGH = 15.0


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to measure. `make` sets it up for a round by its number, which isn't timed; -1 warms up."""

    key: Hashable
    make: Callable[[int], Callable[[], object]]
    samples: int
    device: str
    spent: list[float] = field(default_factory=list)

    def measure(self, number: int) -> None:
        """One round."""
        if sum(self.spent) < _ENOUGH:
            work = self.make(number)
            gc.collect()
            self.spent.append(seconds(work, self.device))

    @property
    def samples_per_second(self) -> float:
        """The median of its rounds."""
        return self.samples / median(self.spent)


def samples_per_second(
    contenders: Sequence[Contender], rounds: int, between: Callable[[int], object]
) -> dict[Hashable, float]:
    """The rate of each contender by its key; `between` is called before each round."""
    for contender in contenders:
        contender.make(-1)()
    # What stays needn't be looked through each time that rubbish is collected, in here or while timing.
    gc.collect()
    gc.freeze()
    for number in range(rounds):
        between(number)
        for contender in contenders:
            contender.measure(number)
    gc.unfreeze()
    return {contender.key: contender.samples_per_second for contender in contenders}
