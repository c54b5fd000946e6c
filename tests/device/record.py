"""What is written down of work on a simulated device: operations, waits, and the code that asked for them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from types import FrameType

import torch

import caikit_pt

_OURS = str(Path(caikit_pt.__file__).parent.parent)
_LIBRARIES = str(Path(torch.__file__).parent.parent)
# Of libraries, what decides what is computed.
_TOLD = ("transformers/", "torch/optim/", "torch/nn/utils/")
# Of this room, what stands behind every operator.
_MACHINERY = {
    str(Path(__file__).with_name(f"{name}.py"))
    for name in ("backend", "memory", "record", "rules", "simulated", "tensor")
}


class Cause(StrEnum):
    """Why the host waits until the device has done all that it was given before."""

    ITEM = "a number is read"
    TO_HOST = "copy to the host"
    PAGEABLE = "copy from pageable memory"
    BLOCKING = "blocking copy from pinned memory"
    MASK = "a mask as index"
    HOST_INDEX = "an index on the host"
    SHAPE = "a shape that depends on numbers"
    EQUAL = "tensors are compared"
    SYNCHRONIZE = "synchronize"


class Kind(Enum):
    """What an operation costs: a kernel, a copy from or to the host, memory, or a view, which is nothing."""

    COMPUTE = "compute"
    COPY = "copy"
    ALLOCATE = "allocate"
    VIEW = "view"


@dataclass(frozen=True, slots=True)
class Place:
    """The innermost function of the package that asked, and that of a `library` that it asked through."""

    file: str
    function: str
    line: int = field(compare=False)
    library: str = ""

    def __str__(self) -> str:
        through = f" through {self.library}" if self.library else ""
        return f"{self.file} {self.function}{through}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Once that the host waits. `operation` is the operator of ATen."""

    cause: Cause
    operation: str
    place: Place


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator on the device. Shapes and addresses are those of all its tensors, results at the end."""

    name: str
    kind: Kind
    shapes: tuple[tuple[int, ...], ...]
    addresses: tuple[int, ...]
    place: Place


@dataclass(slots=True, eq=False)
class Record:
    """All that was written down between two moments."""

    waits: list[Wait] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    @property
    def computing(self) -> list[Operation]:
        """The operations that aren't free: all but views and memory."""
        return [each for each in self.operations if each.kind in (Kind.COMPUTE, Kind.COPY)]

    @property
    def views(self) -> list[Operation]:
        """The operations that only look at memory in another way."""
        return [each for each in self.operations if each.kind is Kind.VIEW]

    @property
    def causes(self) -> Counter[Cause]:
        """How often the host waited, and why."""
        return Counter(wait.cause for wait in self.waits)

    @property
    def work(self) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
        """Names and shapes in their order: two steps with the same work could be one captured graph."""
        return [(each.name, each.shapes) for each in self.operations]

    @property
    def addresses(self) -> list[tuple[int, ...]]:
        """Where the tensors of each operation lie: a captured graph looks in the same places."""
        return [each.addresses for each in self.operations]


def place() -> Place:
    """Who asks now: the innermost function in caikit_pt, or else in a test."""
    library = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        of_library, file = _file(frame.f_code.co_filename)
        if file and not of_library:
            return Place(file, frame.f_code.co_qualname, frame.f_lineno, library)
        if file and not library:
            library = f"{file} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return Place("", "", 0, library)


@cache
def _file(name: str) -> tuple[bool, str]:
    """Whether a file is a library's, and what it is called; nothing for what stands behind every operator."""
    if name.startswith(_LIBRARIES):
        file = Path(name).relative_to(_LIBRARIES).as_posix()
        return True, file if file.startswith(_TOLD) else ""
    is_ours = name.startswith(_OURS) and name not in _MACHINERY
    return False, Path(name).relative_to(_OURS).as_posix() if is_ours else ""
