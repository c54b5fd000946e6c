"""The server's end of an exchange: a link for each run, and what is left of runs that nobody waits for."""

from __future__ import annotations

from pathlib import Path

from caikit_pt.runtime.executors.exchange import Exchange
from caikit_pt.runtime.executors.inbox import Inbox
from caikit_pt.runtime.executors.link import Link
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_folder import JobFolder


class Post:
    """In the store at `address`, below `server`; what was found to be fastest on nodes is kept in `cache`."""

    def __init__(self, address: str, server: str, cache: Path) -> None:
        """Raises ValueError, ImportError as Exchange does."""
        self._address, self._exchange, self._cache = address, Exchange(address).at(server), cache

    @property
    def why_not(self) -> str:
        """Why nothing can be put up, as it was seen last; empty where it can."""
        told = self._exchange.trouble
        return told and f"the store {self._address} can't be reached: {told}"

    def link(self, job: Job, folder: JobFolder) -> Link:
        """Of a run of a job."""
        files = folder.run(job.fence)
        objects = self._exchange.at(job.id).of_run(job.fence)
        return Inbox(objects, files, folder.directory, self._cache)

    def runs(self) -> set[tuple[str, int]]:
        """The jobs and numbers of the runs that something is left of. Raises OSError."""
        return self._exchange.runs()

    def remove(self, job: str, fence: int) -> None:
        """All that is left of a run. Raises OSError."""
        self._exchange.at(job).of_run(fence).clear()
