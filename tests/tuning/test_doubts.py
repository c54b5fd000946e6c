"""What is doubted of a training while it runs, and that it is said once."""

from __future__ import annotations

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.curve import Point
from caikit_pt.tuning.doubts import Doubts

from .training import plan

UPDATES = 100
# The first losses of a training that learns: one batch is harder than the next.
NOISY = [3.1, 2.6, 3.4, 2.9, 2.4, 3.3, 2.5, 3.0] * 5


@pytest.mark.parametrize(
    ("slope", "told"),
    [
        (-0.01, []),
        (0.0, ["the loss is flat at update 40 of 100"]),
        (0.05, ["the loss is diverging at update 20 of 100"]),
    ],
)
def test_a_doubt_is_told_once(
    llama: BaseModel, slope: float, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    candidate, doubts = Candidate.begin(llama, plan(llama).parameters, None, UPDATES), Doubts(UPDATES)
    for step in range(1, UPDATES + 1):
        candidate.curve.append(Point(1, step, 2.0 + slope * step, 0.3, True))
        doubts.look(candidate, step)
    assert [record.message for record in caplog.records if record.name.endswith("doubts")] == told


@pytest.mark.parametrize("updates", [8, 20, 30, 39])
def test_a_short_training_is_not_called_flat_on_its_way(
    llama: BaseModel, updates: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Noise of so few losses tells nothing, and there was a warning that nobody could use."""
    candidate, doubts = Candidate.begin(llama, plan(llama).parameters, None, updates), Doubts(updates)
    for step in range(1, updates + 1):
        candidate.curve.append(Point(1, step, NOISY[step - 1], 0.3, True))
        doubts.look(candidate, step)
    assert not [record for record in caplog.records if record.name.endswith("doubts")]
