"""What the tests of trackers tell."""

from __future__ import annotations

from caikit_pt.tracking.point import Point
from caikit_pt.tracking.track import Training

TRAINING = Training(
    id="a-1",
    name="mood",
    parameters={
        "num_epochs": 3,
        "output_model_types": ("DECODER",),
        "verbalizer": "{{input}}",
        "origins": {"num_epochs": "request", "verbalizer": "default"},
    },
    started=1000.5,
)


def losses(first: int, last: int, time: float) -> list[Point]:
    """Those of some updates, all told at one `time`."""
    return [Point("train/loss", 1 / step, step, time) for step in range(first, last + 1)]
