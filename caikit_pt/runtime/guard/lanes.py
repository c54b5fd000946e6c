"""The lanes of this server, by the settings."""

from __future__ import annotations

from caikit_pt.runtime.guard.door import ANSWERS, CONTROL, STREAMS, TRAININGS, WATCHES
from caikit_pt.runtime.guard.lane import Lane
from caikit_pt.settings import Settings

# What is quick, and is to be so whatever else goes on: health, where a training stands ...
_CONTROL_THREADS, _CONTROL_WAITING = 16, 1000
# Records are looked through, and a step of training tried, before the train RPC returns.
_TRAINING_THREADS, _TRAININGS_WAITING = 16, 100


def lanes(settings: Settings, threads: int) -> dict[str, Lane]:
    """Each kind of RPC has threads of its own, answers that aren't streamed `threads`."""
    made = (
        Lane(ANSWERS, threads, settings.max_waiting_requests),
        Lane(STREAMS, settings.max_streams),
        Lane(WATCHES, settings.max_watches),
        Lane(TRAININGS, _TRAINING_THREADS, _TRAININGS_WAITING),
        Lane(CONTROL, _CONTROL_THREADS, _CONTROL_WAITING),
    )
    return {lane.name: lane for lane in made}
