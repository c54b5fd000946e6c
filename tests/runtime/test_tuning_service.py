"""What TuningService makes of long loss curves. Its RPCs are in test_jobs.py."""

from __future__ import annotations

from itertools import pairwise

import pytest

from caikit_pt.runtime import tuning_service
from caikit_pt.runtime.tuning_service import _thinned


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 95, 1001])
def test_a_long_curve_is_thinned_at_equal_distances(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(tuning_service, "_MOST_POINTS", 10)
    points: list[list[float | None]] = [
        [step, None if step == 3 else step / 7] for step in range(1, length + 1)
    ]
    thin = _thinned(points)
    assert len(thin) <= 10
    assert thin[-1:] == points[-1:]
    assert thin == sorted(thin, key=lambda point: point[0] or 0)
    assert all(point in points for point in thin)
    steps = [point[0] or 0 for point in thin]
    assert len({after - before for before, after in pairwise(steps)}) <= 1
    assert length > 10 or thin == points
