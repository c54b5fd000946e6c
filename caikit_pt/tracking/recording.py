"""A training in this process, told to every tracker that the settings name."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caikit_pt.errors import CaikitPtError, in_short, without_excerpts
from caikit_pt.settings import Tracking
from caikit_pt.tracking.point import of_progress, of_validation, of_verdict
from caikit_pt.tracking.recorder import Recorder
from caikit_pt.tracking.track import FAILED, FINISHED, KILLED, Track, Training
from caikit_pt.tracking.trackers import trackers
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.verdict import sentences

_SECONDS_TO_END = 10.0


class Recording:
    """What `tune` is to call, and its caller at the end: that alone waits for a tracker, and not for long."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = recorders

    def updated(self, progress: Progress) -> None:
        """After an update."""
        if self._recorders:
            rate = progress.samples / max(progress.seconds, 1e-9)
            losses = [(progress.step, progress.loss)]
            points = of_progress(losses, progress.learning_rate, rate, time.time())
            for recorder in self._recorders:
                recorder.log(points)

    def validated(self, found: Validated) -> None:
        """After a validation."""
        for recorder in self._recorders:
            recorder.log(of_validation(found.step, found.scores, time.time()))

    def tuned(self, verdict: Mapping[str, Any], save: Callable[[str], None]) -> None:
        """At the end: what came of it, and how its files are written into a directory."""

        def keep(track: Track) -> None:
            with TemporaryDirectory() as directory:
                artifact = Path(directory) / "prompt"
                save(str(artifact))
                track.keep(artifact, "")

        for recorder in self._recorders:
            recorder.log(of_verdict(verdict, time.time()))
        self._end(FINISHED, "\n".join(sentences(verdict)), keep)

    def failed(self, error: BaseException) -> None:
        """At another end."""
        if isinstance(error, KeyboardInterrupt):
            self._end(KILLED, "")
        else:
            told = str(error) if isinstance(error, CaikitPtError) else in_short(error)
            self._end(FAILED, without_excerpts(told))

    def _end(self, state: str, text: str, keep: Callable[[Track], None] | None = None) -> None:
        ended = time.time()

        def finish(track: Track) -> None:
            track.end(state, text, ended)
            if keep is not None:
                keep(track)

        for recorder in self._recorders:
            recorder.close(finish)
        deadline = time.monotonic() + _SECONDS_TO_END
        for recorder in self._recorders:
            recorder.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def recording(plan: TuningPlan, tracking: Tracking) -> Iterator[Recording]:
    """Of the training that is done meanwhile. Raises InvalidParameter where a package is missing."""
    training = Training(
        id=uuid.uuid4().hex,
        name=plan.checkpoint.name,
        parameters=plan.parameters.to_dict(),
        started=time.time(),
    )
    made = Recording([Recorder(tracker, training) for tracker in trackers(tracking)])
    try:
        yield made
    except BaseException as error:
        made.failed(error)
        raise
