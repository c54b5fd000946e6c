"""Tells a tracker of a training in this process, from a thread of its own: the training waits for nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from caikit_pt.errors import in_short
from caikit_pt.tracking.point import Point
from caikit_pt.tracking.track import Refused, Track, Tracker, Training

_LOG = logging.getLogger(__name__)
# What a tracker doesn't take in time is forgotten, the oldest first.
_MOST_WAITING = 100_000
_SECONDS_BETWEEN_REQUESTS, _LONGEST_PAUSE = 1.0, 30.0


class Recorder:
    """One training at one tracker."""

    def __init__(self, tracker: Tracker, training: Training) -> None:
        self._tracker, self._training = tracker, training
        self._changed = threading.Condition()
        self._points: deque[Point] = deque(maxlen=_MOST_WAITING)
        self._finish: Callable[[Track], None] | None = None
        self._failures = 0  # in a row
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"tracking {tracker.name}", daemon=True)
        self._thread.start()

    def log(self, points: Iterable[Point]) -> None:
        """Returns at once."""
        with self._changed:
            self._points.extend(points)

    def close(self, finish: Callable[[Track], None]) -> None:
        """When the rest has been told, `finish` does what is left to do. Returns at once."""
        with self._changed:
            self._finish, self._failures = finish, 0
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until all has been told, or so long. The thread goes on for as long as the process lives."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            _LOG.warning("%s hasn't taken all of the training yet", self._tracker.name)

    def _work(self) -> None:
        track: Track | None = None
        while True:
            points, finish = self._taken()
            try:
                if track is None:
                    track = self._tracker.open(self._training)
                    _LOG.info("the training is tracked: %s", track.address)
                track.log(points)
                points, self._failures = [], 0
                if finish is not None:
                    finish(track)
                    return
            except Refused as error:
                _LOG.warning("%s refuses the training: %s", self._tracker.name, error)
                return
            except Exception as error:  # of any library, and no matter for the training
                self._failures += 1
                self._warn(error)
            with self._changed:
                self._points = deque([*points, *self._points], _MOST_WAITING)

    def _taken(self) -> tuple[list[Point], Callable[[Track], None] | None]:
        """What is there after a pause, or at the end: at once, unless that has just failed."""
        with self._changed:
            pause = min(_LONGEST_PAUSE, _SECONDS_BETWEEN_REQUESTS * 2**self._failures)
            self._changed.wait_for(lambda: self._finish is not None and not self._failures, pause)
            points = list(self._points)
            self._points.clear()
            return points, self._finish

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("%s is asked again: %s", self._tracker.name, in_short(error))
