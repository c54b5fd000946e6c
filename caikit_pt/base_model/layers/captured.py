"""A step that is captured once and then repeated by one call: torch's CUDA graphs.

What is captured reads and writes the same addresses every time it is repeated, and nothing of it may wait
for the device. Whether a repetition computes what the step does is tried by whoever captures it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

_WARM_UPS = 2
_CAPTURING = threading.Lock()


class CapturedStep(Protocol):
    """What repeats a step."""

    def replay(self) -> Tensor:
        """The step once more; its result lies where it always does."""


# Of a step, and of what takes it back, so that it can be taken again.
Capture: TypeAlias = Callable[[Callable[[], Tensor], Callable[[], None]], CapturedStep]


class CudaGraphStep:
    """A step as a CUDA graph. Graphs of one device share the memory they compute in: one runs at a time."""

    def __init__(
        self, step: Callable[[], Tensor], take_back: Callable[[], None], pool: Any, aside: Any
    ) -> None:
        """Captured on the stream `aside`, which libraries keep a workspace for."""
        here = torch.cuda.current_stream()
        # Libraries make their workspaces the first time, which can't be captured.
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                step()
                take_back()
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on with what a capture forbids.
            with torch.cuda.graph(self._graph, pool, stream=aside, capture_error_mode="thread_local"):
                self._result = step()
        finally:
            # A capture that fails at its end leaves its stream to be the current one.
            torch.cuda.set_stream(here)

    def replay(self) -> Tensor:
        self._graph.replay()
        return self._result


def cuda_graphs(device: torch.device) -> Capture | None:
    """How steps on `device` are captured; None where they can't be."""
    if device.type != "cuda":
        return None
    pool = torch.cuda.graph_pool_handle()
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def capture(step: Callable[[], Tensor], take_back: Callable[[], None]) -> CapturedStep:
        # A capture begins with a wait for the whole device, which another capture doesn't survive.
        with _CAPTURING, torch.cuda.device(device):
            return CudaGraphStep(step, take_back, pool, aside)

    return capture
