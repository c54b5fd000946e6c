"""Where the host waits for the device: torch warns of each time, and they are counted."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.row import NotThere, Row

PART = "waits of the host"
_SAID = "called a synchronizing CUDA operation"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Waits:
    """How often the host waited in all, by the place in the code."""

    places: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All of them."""
        return self.places.total()

    def __str__(self) -> str:
        most = ", ".join(f"{place} {count}" for place, count in self.places.most_common(_SHOWN))
        return f"{self.total}{f' ({most})' if most else ''}"


def counted(act: Callable[[], object]) -> Waits:
    """The waits of `act`."""
    import torch

    waits = Waits()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            act()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one in told:
        if _SAID in str(one.message):
            waits.places[f"{Path(one.filename).name}:{one.lineno}"] += 1
    return waits


def row(what: str, device: str, act: Callable[[], object]) -> Row:
    """What `act` waits for, as a row."""
    if device == "cpu":
        raise NotThere("a CPU is waited for by nobody")
    return Row(PART, what, str(counted(act)))
