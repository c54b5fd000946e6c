"""Where a job is trained: on the device that its request names, else on GPUs of its own or on the CPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count, islice

from caikit_pt.parameters.table import REQUEST
from caikit_pt.runtime.job import Job


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of a job as its process calls it. `gpus`: the numbers of those that it has for itself, one
    for each of its workers."""

    device: str
    gpus: tuple[int, ...] = ()

    @property
    def environment(self) -> Mapping[str, str]:
        """What its process has to see."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(_visible, self.gpus))} if self.gpus else {}


def placed(job: Job, taken: Collection[int], joined: bool, workers: int = 1) -> Placement:
    """Who names no GPU gets the first that aren't `taken`, one for each of its `workers`; trainings that may
    be joined share theirs."""
    device = str(job.parameters["device"])
    named = job.parameters["origins"].get("device") == REQUEST
    if not device.startswith("cuda") or named or joined:
        return Placement(device)
    free = (number for number in count() if number not in taken)
    return Placement("cuda:0", tuple(islice(free, workers)))


def _visible(number: int) -> str:
    """The GPU with this number among those that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number].strip() if seen else str(number)
