"""How the folder of a run gets to a node of a cluster, and what the run writes there comes back."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from caikit_pt.runtime.run_folder import RunFolder

# Files of a shared disk may be seen that much later than what the cluster says.
_SECONDS_FOR_FILES = 3.0


class Link(ABC):
    """That of one run."""

    # What to look at where a run ends without a word.
    advice = ""

    @property
    @abstractmethod
    def is_away(self) -> bool:
        """Whether what the run writes can't be seen now, and its silence says nothing."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where a node finds the folder of the job, a path or an address."""

    @abstractmethod
    def give(self) -> None:
        """It is there from now on, with the order of the run. Raises OSError."""

    @abstractmethod
    def take_back(self) -> None:
        """The run doesn't begin."""

    @abstractmethod
    def open(self) -> None:
        """From now on what it writes is in its folder here."""

    @abstractmethod
    def hurry(self) -> None:
        """There is something new here."""

    @abstractmethod
    def catch_up(self, is_enough: Callable[[], bool]) -> None:
        """Until all is here that it has written so far, or `is_enough`."""

    @abstractmethod
    def close(self, is_over: bool) -> None:
        """Nobody listens any more; what only a run needs that isn't over goes, too."""


class SharedDirectory(Link):
    """A directory that server and nodes have at the same place: what one writes the other sees."""

    is_away = False

    def __init__(self, files: RunFolder) -> None:
        self._files = files

    @property
    def place(self) -> str:
        """See Link."""
        return str(self._files.job_folder.absolute())

    def give(self) -> None:
        """See Link."""

    def take_back(self) -> None:
        """See Link."""
        shutil.rmtree(self._files.directory, ignore_errors=True)

    def open(self) -> None:
        """See Link."""

    def hurry(self) -> None:
        """See Link."""

    def catch_up(self, is_enough: Callable[[], bool]) -> None:
        """See Link."""
        time.sleep(_SECONDS_FOR_FILES)

    def close(self, is_over: bool) -> None:
        """See Link."""
