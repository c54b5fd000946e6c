"""Where a job is trained: on the device that its request names, else on a GPU of its own or on the CPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from caikit_pt.runtime.job import Job


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of a job as its process calls it. `gpu`: the number of the one that it has for itself."""

    device: str
    gpu: int | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What its process has to see."""
        return {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": _visible(self.gpu)}


def placed(job: Job, taken: Collection[int], joined: bool) -> Placement:
    """Who names no GPU gets the first that isn't `taken`; trainings that may be joined share theirs."""
    device = str(job.parameters["device"])
    named = job.parameters["origins"].get("device") == "request"
    if not device.startswith("cuda") or named or joined:
        return Placement(device)
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    return Placement("cuda:0", free)


def _visible(number: int) -> str:
    """The GPU with this number among those that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number].strip() if seen else str(number)
