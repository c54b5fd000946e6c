"""Interleaved measurements, and what they come to."""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

_Key = TypeVar("_Key")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work: CPU seconds of this process, seconds that passed, and what it returned."""

    cpu: float
    wall: float
    result: Any


def cost(
    work: Callable[[], Any], device: str = "cpu", clock: Callable[[], float] = time.process_time
) -> Cost:
    """Does `work` once; `clock` tells CPU seconds, of another process where that does it."""
    synchronize(device)
    wall, cpu = time.perf_counter(), clock()
    result = work()
    synchronize(device)
    return Cost(clock() - cpu, time.perf_counter() - wall, result)


def interleaved(
    makes: Mapping[_Key, Callable[[int], Callable[[], Any]]],
    rounds: int,
    device: str = "cpu",
    clocks: Mapping[_Key, Callable[[], float]] | None = None,
) -> dict[_Key, list[Cost]]:
    """Each in turn, round by round; a first round, -1, warms up and doesn't count.

    `makes` sets the work of a round up by its number, which isn't timed.
    """
    found: dict[_Key, list[Cost]] = {key: [] for key in makes}
    # What stays needn't be looked through each time that rubbish is collected, in here or while timing.
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):
        for key, make in makes.items():
            work = make(number)
            gc.collect()
            once = cost(work, device, (clocks or {}).get(key, time.process_time))
            if number >= 0:
                found[key].append(once)
    gc.unfreeze()
    return found


def middle(costs: Sequence[Cost]) -> Cost:
    """The medians of both times, with the last result."""
    return Cost(median(one.cpu for one in costs), median(one.wall for one in costs), costs[-1].result)


def equal_answers(ours: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> int:
    """How many are the same, token for token."""
    return sum(list(one) == list(other) for one, other in zip(ours, others, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of `values` don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def keep_freed_memory() -> None:
    """Has glibc's malloc keep what is freed, for whoever runs in this process.

    Else a work costs up to a tenth more or less by what ran before it: fresh pages have to be cleared.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def synchronize(device: str) -> None:
    """Waits for a GPU."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
