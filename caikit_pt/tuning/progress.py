"""A training shows where it stands: a bar for a person, lines with an ETA for a log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after an update. `loss` is nats a target token."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds: float
    learning_rate: float = 0.0
    validation_loss: float | None = None  # the best so far
    samples: int = 0  # so far
    tokens: int = 0  # so far, of sources and targets
    phase: str = ""  # where a training has several

    @property
    def eta_seconds(self) -> float:
        """Seconds that the rest takes if it goes on like this."""
        return self.seconds / self.step * (self.steps - self.step)


@contextmanager
def show_progress(base_model: str, bar: bool) -> Iterator[Callable[[Progress], None]]:
    """What `tune` is to call after each update: moves a bar, or writes log lines."""
    if not bar:
        yield _Lines(base_model)
        return
    from tqdm.auto import tqdm

    with ExitStack() as ended:
        shown: list[Any] = []

        def advance(progress: Progress) -> None:
            if not shown:
                # Now it has a length; a bar that begins without one is "0update [?]".
                bar = tqdm(desc=f"tuning {base_model}", unit="update", total=progress.steps)
                shown.append(ended.enter_context(bar))
            loss = f"{progress.loss:.4f}{_validated(progress)}"
            shown[0].set_postfix(epoch=progress.epoch, loss=loss, refresh=False)
            shown[0].update()

        yield advance


class _Lines:
    """A log line every few seconds, and one at the end."""

    def __init__(self, base_model: str) -> None:
        self._base_model = base_model
        self._next = _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        if progress.seconds < self._next and progress.step < progress.steps:
            return
        self._next = progress.seconds + _SECONDS_BETWEEN_LINES
        _LOG.info(
            "tuning %s: epoch %d, update %d of %d, loss %.4f%s, rate %.3g, %.0f s, about %.0f s to go",
            self._base_model,
            progress.epoch,
            progress.step,
            progress.steps,
            progress.loss,
            _validated(progress),
            progress.learning_rate,
            progress.seconds,
            progress.eta_seconds,
        )


def _validated(progress: Progress) -> str:
    """The best validation loss so far, in words, where there was a validation."""
    best = progress.validation_loss
    return "" if best is None else f", best validation loss {best:.4f}"
