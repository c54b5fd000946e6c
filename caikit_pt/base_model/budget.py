"""How much one forward pass takes on: as much as fits, found by trying."""

from __future__ import annotations

from dataclasses import dataclass, replace

# On a CPU, and on an accelerator of any type.
_MOST_LOGITS = 2**24, 2**28
# Positions times width, H. On a CPU products are at full speed from some hundred positions on, and caches
# hold a few MB; a GPU wants as much as there is room for.
_MOST_NUMBERS = 3 * 2**17, 2**27
_FEWEST_POSITIONS = 512


@dataclass(frozen=True, slots=True)
class Budget:
    """Positions of all rows together, and logits (target tokens times vocabulary), of one forward pass.

    A row that is larger than either is taken alone. With `recompute`, layers are computed twice in order
    to keep less (`layers.recompute`).
    """

    positions: int
    logits: int
    recompute: bool = False

    def halved(self) -> Budget:
        """For another try where memory didn't suffice."""
        return replace(self, positions=self.positions // 2, logits=self.logits // 2)


def budget_for(device: str, width: int, room: int | None = None) -> Budget:
    """What to begin with for a model of `width` H on a `device` of a type of torch.

    `room`: positions whose activations there is memory for, as far as that can be told before.
    """
    kind = int(device != "cpu")
    most = _MOST_NUMBERS[kind] // width
    return Budget(max(_FEWEST_POSITIONS, most if room is None else min(most, room)), _MOST_LOGITS[kind])
