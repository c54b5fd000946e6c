"""How far something has come: a training as a bar, on a terminal or in a notebook, and answers."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caikit_pt.training import Event

_SECONDS_BETWEEN_LINES = 5.0


class ProgressBar:
    """A bar with the live loss, from the first update on, and what else happens above it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, event: Event) -> None:
        """The next event of the training."""
        from tqdm.auto import tqdm

        at = event.progress
        if at is None:
            if event.kind not in ("verdict", "checkpoint"):
                tqdm.write(str(event), file=sys.stderr)
            return
        if self._bar is None:
            self._bar = tqdm(
                total=at.steps, initial=at.step, unit="update", file=sys.stderr, dynamic_ncols=True
            )
        if self._bar.total != at.steps:
            self._bar.reset(at.steps)
        self._bar.n = at.step
        self._bar.set_postfix_str(str(at), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Leaves it as it is."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AnswersBar:
    """Of answers: a bar on a terminal, else a line every few seconds and one at the end."""

    def __init__(self, done: int = 0, of: int | None = None) -> None:
        """`done` of them were there before. Where it is known `of` how many, the bar is there at once."""
        self._began_with, self._began = done, time.monotonic()
        self._next = self._began + _SECONDS_BETWEEN_LINES
        self._bar: Any = None
        if of is not None and sys.stderr.isatty():
            self._move(done, of)

    def show(self, done: int, of: int, told: str = "") -> None:
        """So many are there; `told` in a line, or else how fast they come."""
        if sys.stderr.isatty():
            self._move(done, of)
        elif time.monotonic() >= self._next or done == of:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(told or self._pace(done, of), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Makes room for a line; the bar is back when it moves."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Leaves it as it is."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> AnswersBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move(self, done: int, of: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=of, initial=self._began_with, unit="answer", file=sys.stderr, dynamic_ncols=True
            )
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def _pace(self, done: int, of: int) -> str:
        rate = (done - self._began_with) / max(1e-9, time.monotonic() - self._began)
        return f"{done} of {of} answers, {rate:.3g}/s, about {(of - done) / rate:.0f} s to go"
