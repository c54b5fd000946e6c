"""Captures as there could be on a GPU, on a simulated device: one that is right, and some that aren't."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .tensor import BOOK, Tape


class TapedStep:
    """Repeats the operators of a step at the addresses and with the host's numbers that they had."""

    made = 0
    played = 0

    def __init__(self, step: Callable[[], Tensor], take_back: Callable[[], None]) -> None:
        type(self).made += 1
        self._tape = BOOK.tape = Tape()
        try:
            self._result = step()
        finally:
            BOOK.tape = None

    def replay(self) -> Tensor:
        type(self).played += 1
        self._tape.play()
        return self._result


class WrongStep(TapedStep):
    """Repeats something else."""

    def replay(self) -> Tensor:
        return super().replay() * 1.5


class RefusedStep(TapedStep):
    """Can't be captured."""

    def __init__(self, step: Callable[[], Tensor], take_back: Callable[[], None]) -> None:
        step()
        raise RuntimeError("operation not permitted when stream is capturing")


class BrokenStep(TapedStep):
    """Can't be repeated."""

    def replay(self) -> Tensor:
        super().replay()
        raise torch.AcceleratorError("unspecified launch failure", 1)
