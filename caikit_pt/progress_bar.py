"""A training of a server as a progress bar: on a terminal, in a notebook."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caikit_pt.training import Event


class ProgressBar:
    """A bar with the live loss, and what else happens above it."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(unit="update", leave=True, file=sys.stderr, dynamic_ncols=True)

    def show(self, event: Event) -> None:
        """The next event of the training."""
        at = event.progress
        if at is None:
            if event.kind not in ("verdict", "checkpoint"):
                self._bar.write(str(event), file=sys.stderr)
            return
        if self._bar.total != at.steps:
            # A notebook's bar has no length otherwise.
            self._bar.reset(at.steps)
        self._bar.n = at.step
        self._bar.set_postfix_str(str(at), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Leaves it as it is."""
        self._bar.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
