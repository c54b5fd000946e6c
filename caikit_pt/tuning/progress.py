"""A training shows where it stands: a bar for a person, lines with an ETA for a log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.tuner import Progress

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress(plan: TuningPlan) -> Iterator[Callable[[Progress], None]]:
    """What `tune` is to call after each update."""
    if plan.parameters.silence_progress_bars:
        yield _Lines(plan.checkpoint.name)
        return
    from tqdm.auto import tqdm

    with tqdm(desc=f"tuning {plan.checkpoint.name}", unit="update") as bar:

        def advance(progress: Progress) -> None:
            bar.total = progress.steps
            bar.set_postfix(epoch=progress.epoch, loss=f"{progress.loss:.4f}", refresh=False)
            bar.update()

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
            "tuning %s: epoch %d, update %d of %d, loss %.4f, %.0f s, about %.0f s to go",
            self._base_model,
            progress.epoch,
            progress.step,
            progress.steps,
            progress.loss,
            progress.seconds,
            progress.eta_seconds,
        )
