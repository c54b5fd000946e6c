"""Where jobs are put."""

from __future__ import annotations

import pytest

from caikit_pt.runtime.executors.placement import Placement, placed
from tests.runtime.jobs import job


def test_each_job_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,7")
    taken: list[int] = []
    for number, seen in enumerate(("4", "6", "7")):
        found = placed(job("a", device="cuda"), taken, joined=False)
        assert found == Placement("cuda:0", (number,))
        assert found.environment == {"CUDA_VISIBLE_DEVICES": seen}
        taken.append(number)
    taken.remove(1)
    assert placed(job("b", device="cuda"), taken, joined=False) == Placement("cuda:0", (1,))


def test_each_worker_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7,8")
    found = placed(job("a", device="cuda"), [1], joined=False, workers=2)
    assert found == Placement("cuda:0", (0, 2))
    assert found.environment == {"CUDA_VISIBLE_DEVICES": "4,7"}


def test_a_device_that_the_request_names_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    named = {"device": "request"}
    assert placed(job("a", device="cuda:1", origins=named), [], joined=False) == Placement("cuda:1")
    assert placed(job("b", device="cpu"), [], joined=False) == Placement("cpu")
    assert Placement("cuda:0", (0,)).environment == {"CUDA_VISIBLE_DEVICES": "0"}
    shared = placed(job("d", device="cuda"), [], joined=True)
    assert shared == Placement("cuda")
    assert shared.environment == {}
