"""How one row's tokens are picked: its parameters, what it has seen, and its own random numbers.

A draw takes one number of the row's own generator, so that a seed gives the same answer in any company.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.parameters.generation import GenerationParameters

if TYPE_CHECKING:
    import torch

_LARGEST_EXPONENT = 30.0


class Sampler:
    """How one row's tokens are picked. `seen` are the ids that a repetition penalty counts from."""

    def __init__(
        self, parameters: GenerationParameters, seen: Sequence[int], end_ids: frozenset[int]
    ) -> None:
        self.parameters = parameters
        self.seen = list(seen)
        self.end_ids = sorted(end_ids)
        self._given = len(self.seen)
        self._generator: torch.Generator | None = None
        self._next: float | None = None

    @property
    def picked(self) -> int:
        """Tokens picked so far."""
        return len(self.seen) - self._given

    @property
    def next_draw(self) -> float:
        """The row's next random number in [0, 1), which stays the next until it is drawn."""
        import torch

        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.parameters.seed & (2**63 - 1))
        if self._next is None:
            self._next = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return self._next

    def draw(self) -> float:
        """The row's next random number."""
        number, self._next = self.next_draw, None
        return number

    def take(self, token: int) -> None:
        """Remembers a token that was picked."""
        if self.parameters.samples:
            self.draw()
        self.seen.append(token)

    @property
    def penalises(self) -> bool:
        """Whether what was there before is less likely to come again."""
        return self.parameters.repetition_penalty not in (0, 1)

    @property
    def push(self) -> float:
        """How many times its size the end's score grows by now.

        `factor ** tokens - 1`; the power is capped, for beyond it nothing but the end is left anyway.
        """
        decay = self.parameters.exponential_decay
        beyond = self.picked - decay.start if decay else 0
        if decay is None or beyond <= 0:
            return 0.0
        return math.exp(min(beyond * math.log(decay.factor), _LARGEST_EXPONENT)) - 1

    @property
    def changes(self) -> bool:
        """Whether what it asks for depends on how many tokens were picked."""
        return bool(self.parameters.min_new_tokens or self.parameters.exponential_decay)

    @property
    def must_go_on(self) -> bool:
        """Whether the answer may not end yet."""
        return self.picked < self.parameters.min_new_tokens
