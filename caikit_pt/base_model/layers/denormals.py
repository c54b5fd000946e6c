"""Numbers too small for a processor to be quick with.

A float32 below 1.2e-38 is a denormal one, with which many processors take many times as long. The embedded T5
spent more than half of its training on them. They are too small to change a sum that a gradient is made
of, other than in its last digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_DENORMAL = 1e-40


@contextmanager
def no_denormals() -> Iterator[None]:
    """Inside, denormal numbers count as zero, in this thread and in those that it starts; on CPUs alone."""
    import torch

    before = _are_zero()
    torch.set_flush_denormal(True)  # False, and no harm, where the processor has no such mode
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_zero() -> bool:
    import torch

    return float(torch.tensor(_DENORMAL) * 1.0) == 0.0
