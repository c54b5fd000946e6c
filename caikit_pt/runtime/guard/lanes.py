"""The lanes of this server, by the settings."""

from __future__ import annotations

from collections.abc import Iterable

from caikit_pt.runtime.guard.door import (
    ANSWERS,
    CONTROL,
    HEALTH,
    HEALTH_WATCHES,
    REFLECTION,
    STREAMS,
    TRAININGS,
    WATCHES,
)
from caikit_pt.runtime.guard.lane import Lane
from caikit_pt.settings import Settings

# What is quick, and is to be so whatever else goes on: lists, where a training stands ...
_CONTROL_THREADS, _CONTROL_WAITING = 16, 1000
# Records are looked through, and a step of training tried, before the train RPC returns.
_TRAINING_THREADS, _TRAININGS_WAITING = 16, 100
# Whoever asks these needn't be known, and a message is read before its size is seen: each thread may hold as
# much as gRPC takes for a message (64 MiB).
_HEALTH_THREADS, _HEALTH_WAITING = 16, 200
_HEALTH_WATCHERS = 16
_REFLECTIONS = 8
# Beyond what all lanes hold: they refuse with reasons, gRPC without.
_SPARE = 64


def lanes(settings: Settings, threads: int) -> dict[str, Lane]:
    """Each kind of RPC has threads of its own, answers that aren't streamed `threads`."""
    made = (
        Lane(ANSWERS, threads, settings.max_waiting_requests),
        Lane(TRAININGS, _TRAINING_THREADS, _TRAININGS_WAITING),
        Lane(CONTROL, _CONTROL_THREADS, _CONTROL_WAITING),
        # Of these a caller has so many at the most, by settings (quotas.py) or door.py, and of health checks
        # the first gives way.
        Lane(STREAMS, settings.max_streams, shared=False),
        Lane(WATCHES, settings.max_watches, shared=False),
        Lane(HEALTH, _HEALTH_THREADS, _HEALTH_WAITING, shared=False),
        Lane(HEALTH_WATCHES, _HEALTH_WATCHERS, shared=False),
        Lane(REFLECTION, _REFLECTIONS, shared=False),
    )
    return {lane.name: lane for lane in made}


def most_rpcs(lanes: Iterable[Lane]) -> int:
    """As many as may be under way in all of them, and some: a top that nothing grows beyond."""
    return sum(lane.most for lane in lanes) + _SPARE
