"""Tells a tracker of the trainings of this server, from their events, in a thread of its own.

A tracker that is slow, down or refuses costs no training anything: what it hasn't taken stays in the store.
At the next start of the server, trainings whose end hasn't been told are told from their start, and the
tracker leaves out what it has (tracking/track.py).
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from caikit_pt.errors import StateUnavailable, in_short, without_excerpts
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import CANCELED, COMPLETED, ERRORED, QUEUED, RUNNING, Event, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.makings import making_of
from caikit_pt.soft_prompt.source import UnusableSource
from caikit_pt.tracking.point import Point, of_progress, of_validation, of_verdict
from caikit_pt.tracking.track import FAILED, FINISHED, KILLED, Refused, Track, Tracker, Training

_LOG = logging.getLogger(__name__)
_ENDS = {COMPLETED: FINISHED, CANCELED: KILLED, ERRORED: FAILED}
_FOLLOWED = (kinds.STATE, kinds.PROGRESS, kinds.VALIDATION, kinds.VERDICT)
# What comes in between goes in one request.
_SECONDS_BETWEEN_LOOKS, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(slots=True)
class _Place:
    """How far a job has been told."""

    track: Track | None = None
    event: int = 0


class Follower:
    """The trainings in `store`, for one tracker, as long as it is on this server to tell."""

    def __init__(self, store: JobStore, tracker: Tracker, is_to_tell: Callable[[], bool]) -> None:
        self._store, self._tracker, self._is_to_tell = store, tracker, is_to_tell
        self._places: dict[str, _Place] = {}
        self._failures = 0  # in a row
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"tracking {tracker.name}", daemon=True)

    def start(self) -> None:
        """From now on trainings are told of."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Waits so long at most: the next server tells the rest."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            seen = self._store.changes
            try:
                if self._is_to_tell():
                    self.look()
                else:
                    self._places.clear()
            except StateUnavailable as error:
                _LOG.warning("trainings can't be tracked now: %s", error)
            self._stopping.wait(min(_LONGEST_PAUSE, _SECONDS_BETWEEN_LOOKS * 2**self._failures))
            self._store.wait_for_change(seen, _SECONDS_BETWEEN_LOOKS)

    def look(self) -> None:
        """Tells all that is new. Where one thing fails, the rest would too: it waits for the next look."""
        jobs = [job for job in self._store.to_track(self._tracker.name) if job.state != QUEUED]
        for job in jobs:
            try:
                self._catch_up(job)
                self._failures = 0
            except Refused as error:
                self._warn(job, f"{self._tracker.name} refuses it: {error}")
                self._leave(job)
            except StateUnavailable:
                raise
            except Exception as error:  # of any library, and no matter for the training
                self._failures += 1
                for other in jobs:
                    self._warn(other, f"{self._tracker.name} is asked again: {in_short(error)}")
                return

    def _catch_up(self, job: Job) -> None:
        place = self._places.setdefault(job.id, _Place())
        while events := self._store.events(job, place.event, kinds=_FOLLOWED):
            for event in events:
                if place.track is None and event.data.get("state") == RUNNING:
                    place.track = self._opened(job, event.time)
            if place.track is not None:
                place.track.log([point for event in events for point in _points(event)])
            for event in events:
                if event.kind == kinds.STATE and event.data["state"] in _ENDS:
                    if place.track is not None:
                        self._finish(job, place.track, event)
                    self._leave(job)
            place.event = events[-1].number

    def _opened(self, job: Job, started: float) -> Track:
        training = Training(id=job.id, name=job.model_name, parameters=job.parameters, started=started)
        track = self._tracker.open(training)
        told = {"tracker": self._tracker.name, "text": f"{self._tracker.name}: {track.address}"}
        if told not in [event.data for event in self._store.events(job, kinds=[kinds.TRACKING])]:
            self._store.add_event(job.id, kinds.TRACKING, told)
        return track

    def _finish(self, job: Job, track: Track, end: Event) -> None:
        verdicts = self._store.events(job, kinds=[kinds.VERDICT])
        verdict = verdicts[-1].data if verdicts else {}
        making, name = making_of(job.makes), self._store.published_as(job)
        completed = end.data["state"] == COMPLETED
        lines = (
            making.sentences(verdict, name)
            if completed
            else map(without_excerpts, end.data.get("reasons", ()))
        )
        track.end(_ENDS[end.data["state"]], "\n".join(lines), end.time)
        if not completed or not self._tracker.keeps_prompts:
            return
        with TemporaryDirectory() as copied:
            artifact = Path(copied) / "artifact"
            try:
                shutil.copytree(making.place(job, name), artifact)
                is_other = making.verdict(artifact) != verdict
            except (OSError, UnusableSource) as error:
                raise Refused(f"its {job.makes} is no longer where it was published") from error
            if is_other:
                raise Refused(f"the {job.makes} of another training has been published in its place")
            track.keep(artifact, making.model(job))

    def _leave(self, job: Job) -> None:
        self._store.set_tracked(job.id, self._tracker.name)
        self._places.pop(job.id, None)

    def _warn(self, job: Job, text: str) -> None:
        """Once for each training and way to fail."""
        known = [event.data["text"] for event in self._store.events(job, kinds=[kinds.WARNING])]
        start = text.partition(":")[0]
        if not any(one.startswith(start) for one in known):
            _LOG.warning("training of %s: %s", job.model_name, text)
            self._store.add_event(job.id, kinds.WARNING, {"text": text})


def _points(event: Event) -> list[Point]:
    data = event.data
    if event.kind == kinds.PROGRESS:
        return of_progress(data["points"], data["learning_rate"], data["samples_per_second"], event.time)
    if event.kind == kinds.VALIDATION:
        return of_validation(data["step"], data["scores"], event.time)
    return of_verdict(data, event.time) if event.kind == kinds.VERDICT else []
