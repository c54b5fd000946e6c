"""Where a job is trained: on the device that its request names, else on GPUs of its own or on the CPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

from caikit_pt.parameters.table import REQUEST
from caikit_pt.runtime.executors.gpu import Gpu, needed_of_gpu
from caikit_pt.runtime.executors.node import gpus_with
from caikit_pt.runtime.job import Job

_GPU = "cuda"


class NoRoom(Exception):
    """There is no place for a job now; says why."""


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

    @property
    def used(self) -> Collection[int]:
        """The numbers of all GPUs that it is on, those that it shares among them."""
        return self.gpus or ([_number(self.device)] if is_gpu(self.device) else [])


def placed(
    job: Job,
    taken: Collection[int],
    joined: bool,
    workers: int = 1,
    gpus: Sequence[Gpu] = (),
) -> Placement:
    """Who names no GPU gets the first that aren't `taken`, one for each of its `workers`; trainings that may
    be joined share theirs. Where `gpus` are known, only those that have the memory; rather those that have
    as much as it is predicted to take. Raises NoRoom."""
    device, needed = str(job.parameters["device"]), needed_of_gpu(job)
    if not is_gpu(device):
        return Placement(device)
    if joined or is_named(job):
        number = _number(device)
        suitable = [gpu for gpu in gpus if gpu.number == number]
        if needed and any(gpu.free < needed for gpu in suitable):
            raise NoRoom(_why(needed, 1, suitable, suitable))
        return Placement(device)
    if not needed or len(gpus) < workers:
        return Placement("cuda:0", tuple(islice((one for one in count() if one not in taken), workers)))
    free = [gpu for gpu in gpus if gpu.number not in taken]
    suitable = sorted((gpu for gpu in free if gpu.free >= needed), key=lambda gpu: gpu.free < job.memory)
    if len(suitable) < workers:
        raise NoRoom(_why(needed, workers, gpus, free))
    return Placement("cuda:0", tuple(gpu.number for gpu in suitable[:workers]))


def is_gpu(device: str) -> bool:
    """Whether a device of torch is one."""
    return device.startswith(_GPU)


def is_named(job: Job) -> bool:
    """Whether its request names its device."""
    return bool(job.parameters["origins"].get("device") == REQUEST)


def _why(needed: int, workers: int, gpus: Sequence[Gpu], free: Sequence[Gpu]) -> str:
    """Of `gpus`, which are no fewer than the `workers`, those that are `free` are too few, or have too little
    memory."""
    wanted = f"It needs {gpus_with(workers, needed)}"
    largest = _of_each(workers, [gpu.memory for gpu in gpus])
    if largest < needed:
        return f"{wanted}; the largest here {_are(workers, largest)}, whatever is free."
    if len(free) < workers:
        return f"{wanted}; of the {len(gpus)} here {len(free)} are free."
    return f"{wanted}; the largest free here {_are(workers, _of_each(workers, [gpu.free for gpu in free]))}."


def _of_each(count: int, memory: Sequence[int]) -> int:
    """What so many have at least, of those that have the most."""
    return sorted(memory, reverse=True)[count - 1]


def _are(count: int, memory: int) -> str:
    return f"{'is' if count == 1 else 'are'} {gpus_with(count, max(memory, 1))}"


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _visible(number: int) -> str:
    """The GPU with this number among those that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number].strip() if seen else str(number)
