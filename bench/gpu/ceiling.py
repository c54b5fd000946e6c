"""What the hardware can do: measured on the spot, and what its maker says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

_REPEATS = {"cpu": 2, "cuda": 20}
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Nominal:
    """By the data sheet: operations a second of dense products in bfloat16, bytes a second of the memory."""

    operations: float
    bandwidth: float


# The longest part that is in a device's name counts.
_NOMINAL = {
    "H200": Nominal(989e12, 4.8e12),
    "H100": Nominal(989e12, 3.35e12),
    "H100 PCIe": Nominal(756e12, 2.0e12),
    "A100": Nominal(312e12, 1.555e12),
    "A100-SXM4-80GB": Nominal(312e12, 2.039e12),
    "A100 80GB PCIe": Nominal(312e12, 1.935e12),
    "L40S": Nominal(362e12, 0.864e12),
    "L4": Nominal(121e12, 0.3e12),
}


def nominal(name: str) -> Nominal | None:
    """Of the device with this name, where it is known."""
    known = [part for part in _NOMINAL if part in name]
    return _NOMINAL[max(known, key=len)] if known else None


@cache
def peak(device: str, dtype: str, sides: tuple[int, ...]) -> float:
    """Operations a second of the best square product of random numbers."""
    import torch

    best = 0.0
    for side in sides:
        left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        for product in (lambda a=left, b=right: a @ b, lambda a=left, b=right: a @ b.T):
            best = max(best, 2 * side**3 / _shortest(product, device))
    return best


@cache
def bandwidth(device: str, copied: int) -> float:
    """Bytes a second that are read and written by a copy."""
    import torch

    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * copied / _shortest(lambda: target.copy_(source), device)


def _shortest(work: Callable[[], object], device: str) -> float:
    """Seconds of one `work`, by the best of some rounds of many."""
    import torch

    from bench.training.clock import seconds

    repeats = _REPEATS[device]
    with torch.no_grad():
        work()
        return (
            min(seconds(lambda: [work() for _ in range(repeats)], device) for _ in range(_ROUNDS)) / repeats
        )
