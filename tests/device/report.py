"""Prints what the host waits for, and how much the device is given to do: `python -m tests.device`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import LLAMA, T5

from .bases import embedded
from .product import BaseModel
from .record import Record
from .simulated import SimulatedDevice
from .work import Training, greedy, sampled, under_way

ROWS = 13
STEPS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of work, and what it took."""

    title: str
    record: Record

    @property
    def lines(self) -> list[str]:
        """The title with its totals; then, by place, how often and why the host waits."""
        record = self.record
        waits = Counter((str(wait.place), str(wait.cause)) for wait in record.waits)
        told = f"{len(record.waits)} waits, {len(record.computing)} operations, {len(record.views)} views"
        lines = [f"{count:6}  {cause:36} {place}" for (place, cause), count in waits.most_common()]
        return [f"{self.title}: {told}", *lines]


def parts(name: str) -> Iterator[Part]:
    """Of an embedded model: an update of 8 records, packed and padded, and steps of answers."""
    base = embedded(name)
    with SimulatedDevice() as device:
        for way in ("packed", "padded"):
            with trained(base, way == "packed"):
                training = Training(base)
                training.update()
                yield Part(f"{name}, an update of 8 records, {way}", counted(device, training.update))
        for make in (greedy, sampled):
            # None of them ends, or may not end, at the step that is counted.
            lasting = {"max_new_tokens": STEPS + 9, "min_new_tokens": STEPS + 1}
            requests = [make(base, number, **lasting) for number in range(ROWS)]
            engine = under_way(base, requests, STEPS)
            yield Part(f"{name}, a step of {ROWS} {make.__name__} rows", counted(device, engine.step))


def counted(device: SimulatedDevice, act: Callable[[], object]) -> Record:
    """What `act` takes."""
    with device.counted() as record:
        act()
    return record


@contextmanager
def trained(base: BaseModel, packed: bool) -> Iterator[None]:
    """Inside, `base` is trained in one of the two ways, whichever it would be."""
    found = base.training.trains_packed
    base.training.__dict__["trains_packed"] = packed
    try:
        yield
    finally:
        base.training.__dict__["trains_packed"] = found


def main() -> None:
    """All of it."""
    for name in (LLAMA, T5):
        for part in parts(name):
            print("\n".join(part.lines), end="\n\n")
