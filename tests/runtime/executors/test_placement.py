"""Where jobs are put."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from caikit_pt.runtime.executors.gpu import Gpu
from caikit_pt.runtime.executors.local import LocalExecutor
from caikit_pt.runtime.executors.node import GIB
from caikit_pt.runtime.executors.placement import NoRoom, Placement, placed
from caikit_pt.runtime.job import Job
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


def needing(least: float, most: float = 0.0, **parameters: Any) -> Job:
    """A job that takes so many GiB of its GPU, besides what CUDA takes."""
    made = job("a", **{"device": "cuda", **parameters})
    return replace(made, least_memory=int(least * GIB), memory=int(most * GIB))


def gpus(*free: float, all: float = 80.0) -> list[Gpu]:
    return [Gpu(number, int(all * GIB), int(one * GIB)) for number, one in enumerate(free)]


def test_a_job_is_put_where_its_memory_is_free() -> None:
    there = gpus(20, 40, 80, 80)
    assert placed(needing(29.5), [], joined=False, gpus=there).gpus == (1,)
    assert placed(needing(29.5), [1], joined=False, gpus=there).gpus == (2,)
    assert placed(needing(29.5), [], joined=False, workers=2, gpus=there).gpus == (1, 2)
    # Where there is as much as it is predicted to take it needn't save.
    assert placed(needing(19.5, most=60), [], joined=False, gpus=there).gpus == (2,)
    assert placed(needing(19.5, most=60), [2, 3], joined=False, gpus=there).gpus == (0,)


@pytest.mark.parametrize(
    ("free", "taken", "workers", "least", "told"),
    [
        ([20, 10], [], 1, 29.5, "1 GPU with 30.0 GiB; the largest free here is 1 GPU with 20.0 GiB."),
        ([20, 60], [1], 1, 29.5, "1 GPU with 30.0 GiB; the largest free here is 1 GPU with 20.0 GiB."),
        (
            [20, 60],
            [],
            2,
            29.5,
            "2 GPUs with 30.0 GiB each; the largest free here are 2 GPUs with 20.0 GiB each.",
        ),
        ([80, 80], [1], 2, 29.5, "2 GPUs with 30.0 GiB each; of the 2 here 1 are free."),
        (
            [80],
            [],
            1,
            89.5,
            "1 GPU with 90.0 GiB; the largest here is 1 GPU with 80.0 GiB, whatever is free.",
        ),
    ],
)
def test_where_there_is_no_room_it_says_what_there_is(
    free: list[float], taken: list[int], workers: int, least: float, told: str
) -> None:
    with pytest.raises(NoRoom) as error:
        placed(needing(least), taken, False, workers, gpus(*free))
    assert str(error.value) == f"It needs {told}"


@pytest.mark.parametrize("joined", [False, True])
def test_a_gpu_that_is_shared_has_to_have_the_memory_too(joined: bool) -> None:
    there = gpus(80, 20)
    named = needing(29.5, device="cuda:1", origins={"device": "request"})
    with pytest.raises(NoRoom, match=r"the largest free here is 1 GPU with 20.0 GiB"):
        placed(named, [], joined, gpus=there)
    assert placed(named, [], joined, gpus=gpus(0, 30)) == Placement("cuda:1")
    assert list(placed(named, [], joined, gpus=gpus(0, 30)).used) == [1]


def test_where_nobody_knows_the_first_are_taken() -> None:
    """What a job of an earlier release needs, or what a driver that doesn't answer has."""
    assert placed(job("a", device="cuda"), [0], joined=False, gpus=gpus(0, 0)).gpus == (1,)
    assert placed(needing(30), [0], joined=False, gpus=()).gpus == (1,)
    assert placed(needing(30, device="cpu"), [], joined=False, gpus=gpus(0)) == Placement("cpu")


def test_what_is_promised_to_others_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have been placed, and haven't taken it yet."""
    free = {"cuda:0": 80 * GIB, "cuda:1": 40 * GIB}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[device], 80 * GIB))
    executor = LocalExecutor(False)
    assert executor.place(needing(29.5), [], {}).gpus == (0,)
    assert executor.place(needing(29.5), [], {0: 51 * GIB}).gpus == (1,)
    with pytest.raises(NoRoom, match=r"the largest free here is 1 GPU with 29.0 GiB"):
        executor.place(needing(29.5), [], {0: 51 * GIB, 1: 12 * GIB})
    (node,) = executor.nodes()
    assert (node.all.gpus, node.all.gpu_memory) == (2, 80 * GIB)

    def fail(device: str) -> tuple[int, int]:
        raise RuntimeError("no driver")

    monkeypatch.setattr("torch.cuda.mem_get_info", fail)
    assert executor.place(needing(29.5), [0], {}).gpus == (1,)
    assert executor.nodes()[0].all.gpu_memory == 0
    executor.close()
