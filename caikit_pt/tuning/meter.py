"""Measures how far a training is, and how long it takes."""

from __future__ import annotations

import time

from caikit_pt.tuning.candidate import Best
from caikit_pt.tuning.curve import Point
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.examples import Examples
from caikit_pt.tuning.progress import Progress


class Meter:
    """The clock of a training, with what has passed through it."""

    def __init__(self, examples: Examples, epochs: Epochs) -> None:
        self._epochs = epochs
        self.tokens_a_sample = sum(examples.lengths) / len(examples)

    def start(self, seconds: float = 0.0) -> None:
        """Begins now, with `seconds` that an interrupted process has spent."""
        self._started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def progress(self, point: Point, best: Best | None) -> Progress:
        """Where the training stands after the update of `point`."""
        samples = self._epochs.samples(point.step)
        return Progress(
            epoch=point.epoch,
            step=point.step,
            steps=self._epochs.updates,
            loss=point.loss,
            seconds=self.seconds,
            learning_rate=point.learning_rate,
            validation_loss=best.loss if best else None,
            samples=samples,
            tokens=round(samples * self.tokens_a_sample),
        )
