"""How much one forward pass takes on: as much as fits, found by trying."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_LOGITS = {"cpu": 2**24, "cuda": 2**28}
# A CPU is as fast with 512 positions as with thousands, and its caches hold them. A GPU wants many.
_MOST_POSITIONS = {"cpu": 512, "cuda": 2**15}


@dataclass(frozen=True, slots=True)
class Budget:
    """Positions of all rows together, and logits (target tokens times vocabulary), of one forward pass.

    A row that is larger than either is taken alone.
    """

    positions: int
    logits: int

    def halved(self) -> Budget:
        """For another try where memory didn't suffice."""
        return Budget(self.positions // 2, self.logits // 2)


def budget_for(device: str) -> Budget:
    """What to begin with on a `device` of type cpu or cuda."""
    return Budget(_MOST_POSITIONS[device], _MOST_LOGITS[device])
