"""Which cases a run measures, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from bench.training.case import BFLOAT16, FLOAT32, LONG, SHORT, Case
from bench.training.shapes import SHAPES

_LLAMA, _LLAMA_128K, _T5 = SHAPES["llama"], SHAPES["llama-128k"], SHAPES["t5"]
_EMBEDDED = ("tiny-llama", "tiny-t5")


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases, those of them that are shown step by step and with their memory, and jobs to be joined."""

    cases: Sequence[Case]
    step_by_step: Sequence[Case]
    with_memory: Sequence[Case]
    joined: Sequence[str] = ()
    joined_embedded: Sequence[str] = ()
    rounds: int = 3


def quick() -> Suite:
    """Small models, a minute or two: does all of it run?"""
    cases = [Case(SHAPES[name]) for name in ("llama-mini", "t5-mini")]
    return Suite(cases, cases, cases[:1], joined_embedded=_EMBEDDED, rounds=2)


def default() -> Suite:
    """What the documentation shows."""
    steps = [Case(_LLAMA), Case(_T5)]
    large = [Case(_LLAMA_128K), Case(_LLAMA_128K, BFLOAT16)]
    cases = [
        steps[0],
        Case(_LLAMA, batch=16),
        Case(_LLAMA, prompt=100),
        Case(_LLAMA, long=LONG),
        Case(_LLAMA, BFLOAT16),
        Case(_LLAMA, BFLOAT16, long=LONG),
        *large,
        steps[1],
        Case(_T5, BFLOAT16),
    ]
    return Suite(cases, steps, [*steps, *large], ("llama", "t5"), _EMBEDDED)


def full() -> Suite:
    """Every shape, type, target, prompt and batch: hours."""
    cases = [
        Case(shape, dtype, long, prompt, batch)
        for shape, dtype, long, prompt, batch in product(
            (_LLAMA, _LLAMA_128K, _T5), (FLOAT32, BFLOAT16), (SHORT, LONG), (20, 100), (8, 16)
        )
    ]
    steps = [case for case in cases if case.prompt == 20 and case.batch == 8]
    return Suite(cases, steps, cases, ("llama", "t5"), _EMBEDDED, rounds=5)


def of_shapes(names: Sequence[str], device: str) -> Suite:
    """The shapes asked for, short and long targets, on a GPU in bfloat16."""
    dtypes = (FLOAT32, BFLOAT16) if device == "cpu" else (BFLOAT16,)
    # A window that fills a GPU, in micro-batches that the peer's loop has memory for.
    accumulate = 4 if device == "cpu" else 16
    cases = [
        Case(SHAPES[name], dtype, long, prompt, 16, accumulate, device)
        for name, dtype, long, prompt in product(names, dtypes, (SHORT, LONG), (20, 100))
    ]
    return Suite(cases, [], cases)
