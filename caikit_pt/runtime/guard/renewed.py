"""What files say, read again when they change."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from caikit_pt.errors import CaikitPtError

_LOG = logging.getLogger(__name__)
_Said = TypeVar("_Said")


class Renewed(Generic[_Said]):
    """Of `files` that `read` makes something of. What it can't make anything of changes nothing."""

    def __init__(self, files: Sequence[Path], read: Callable[[], _Said]) -> None:
        """Raises what `read` raises."""
        self._files, self._read = files, read
        self._lock = threading.Lock()
        self._seen = _look(files)
        self._said = read()

    def get(self) -> _Said:
        """What they say now, or said when they last made sense."""
        # Of the files before they are read: a change in between is seen the next time.
        seen = _look(self._files)
        if seen != self._seen:
            with self._lock:
                if seen != self._seen:
                    self._seen = seen
                    self._renew()
        return self._said

    def _renew(self) -> None:
        names = ", ".join(file.name for file in self._files)
        try:
            self._said = self._read()
        except (OSError, ValueError, CaikitPtError) as error:
            # Not the error of a library, which may tell what is in a file.
            told = str(error) if isinstance(error, CaikitPtError) else type(error).__name__
            _LOG.warning("%s changed, and can't be used; what was there before still counts: %s", names, told)
        else:
            _LOG.info("%s changed, and counts from now on", names)


def _look(files: Sequence[Path]) -> list[tuple[int, int, int, int]]:
    return [_state(file) for file in files]


def _state(file: Path) -> tuple[int, int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
