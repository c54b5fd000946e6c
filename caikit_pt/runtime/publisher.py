"""Publishes what trainings have made: it appears under its name by one rename."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.makings import making_of

_SECONDS_BETWEEN_TRIES = 1.0
_MOST_WARNINGS = 1000


class Publisher:
    """`on_published` is told the path of each job's."""

    def __init__(self, store: JobStore, on_published: Callable[[str], None]) -> None:
        self._store, self._on_published = store, on_published

    def publish(self, job: Job, made: Path, wanted: Callable[[], bool]) -> str:
        """Tries again for as long as the disk won't have it; the name it has now. Empty, and nothing is
        changed, where the job is no longer `wanted`. Raises StateUnavailable."""
        self._tell(job, kinds.PHASE, {"phase": "publishing"})
        try:
            while not (name := self._published(job, made, wanted)):
                time.sleep(_SECONDS_BETWEEN_TRIES)
        except _Unwanted:
            return ""
        making = making_of(job.makes)
        self._on_published(job.path)
        self._tell(job, kinds.VERDICT, making.verdict(made))
        place = str(making.place(job, name))
        self._tell(job, kinds.ARTIFACT, {"model_name": name, "path": place})
        return name

    def reasons(self, job: Job, made: Path, name: str) -> Sequence[str]:
        """What the user of that which was published as `name` should know: the warnings, each once, and the
        verdict."""
        making = making_of(job.makes)
        return [*dict.fromkeys(self._warnings(job)), *making.sentences(making.verdict(made), name)]

    def _published(self, job: Job, made: Path, wanted: Callable[[], bool]) -> str:
        """The name it has now; empty where the disk didn't take it. Raises _Unwanted, as long as nothing is
        changed."""
        try:
            return making_of(job.makes).publish(job, made, partial(_check, wanted))
        except OSError as error:
            self._warn_once(job, f"Waiting to be published: {error.strerror or error}")
            _check(wanted)
            return ""

    def _warn_once(self, job: Job, text: str) -> None:
        if text not in self._warnings(job):
            self._tell(job, kinds.WARNING, {"text": text})

    def _tell(self, job: Job, kind: str, data: Mapping[str, Any]) -> None:
        self._store.add_event(job.id, kind, data, held=job)

    def _warnings(self, job: Job) -> Sequence[str]:
        told = self._store.events(job, kinds=[kinds.WARNING], limit=_MOST_WARNINGS)
        return [event.data["text"] for event in told]


class _Unwanted(Exception):
    """A job was cancelled, or the server stops, while it was being published."""


def _check(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise _Unwanted
