"""All parts, in the order in which they are worth their time."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu import machine
from bench.gpu.correctness import Correctness
from bench.gpu.measure import Part
from bench.gpu.memory import Memory
from bench.gpu.serving import Serving
from bench.gpu.size import Size
from bench.gpu.training import Training


def parts(size: Size) -> Sequence[Part]:
    """What follows the machine can be left out, and stands last where time is short."""
    return [
        machine.part(size),
        Correctness(size).part(),
        Training(size, size.causal).part(),
        Serving(size, size.causal).part(),
        Memory(size).part(),
        Training(size, size.seq2seq).part(),
        Serving(size, size.seq2seq).part(),
    ]
