"""Publishes what trainings have made: a prompt appears under its name by one rename."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.soft_prompt.history import Verdict
from caikit_pt.soft_prompt.publication import replacing
from caikit_pt.tuning.verdict import sentences

_SECONDS_BETWEEN_TRIES = 1.0
_MOST_WARNINGS = 1000


class Publisher:
    """One prompt at a time; `on_published` is told the path of each."""

    def __init__(self, store: JobStore, on_published: Callable[[str], None]) -> None:
        self._store, self._on_published = store, on_published
        self._publishing = threading.Lock()

    def publish(self, job: Job, made: Path, wanted: Callable[[], bool]) -> bool:
        """Tries again for as long as the disk won't have it; False, and nothing is changed, where the job is
        no longer `wanted`. Raises StateUnavailable."""
        self._store.add_event(job.id, kinds.PHASE, {"phase": "publishing"})
        try:
            while not self._published(job, made, wanted):
                time.sleep(_SECONDS_BETWEEN_TRIES)
        except _Unwanted:
            return False
        self._on_published(job.path)
        self._store.add_event(job.id, kinds.VERDICT, dict(Verdict(made)))
        self._store.add_event(job.id, kinds.ARTIFACT, {"model_name": job.model_name, "path": job.path})
        return True

    def reasons(self, job: Job, made: Path) -> Sequence[str]:
        """What the user of a published prompt should know: the warnings, each once, and the verdict."""
        return [*dict.fromkeys(self._warnings(job)), *sentences(Verdict(made))]

    def _published(self, job: Job, made: Path, wanted: Callable[[], bool]) -> bool:
        """Whether the disk took it. Raises _Unwanted, as long as nothing is changed."""
        try:
            with self._publishing, replacing(Path(job.path), mark=job.id) as new:
                for file in made.iterdir():
                    shutil.copy(file, new)
                _check(wanted)
        except OSError as error:
            self._warn_once(job, f"Waiting to be published: {error.strerror or error}")
            _check(wanted)
            return False
        return True

    def _warn_once(self, job: Job, text: str) -> None:
        if text not in self._warnings(job):
            self._store.add_event(job.id, kinds.WARNING, {"text": text})

    def _warnings(self, job: Job) -> Sequence[str]:
        told = self._store.events(job, kinds=[kinds.WARNING], limit=_MOST_WARNINGS)
        return [event.data["text"] for event in told]


class _Unwanted(Exception):
    """A job was cancelled, or the server stops, while it was being published."""


def _check(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise _Unwanted
