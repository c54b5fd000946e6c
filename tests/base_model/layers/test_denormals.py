"""Denormal numbers count as zero where it is said, and nowhere else."""

from __future__ import annotations

import threading

import pytest
import torch

from caikit_pt.base_model.layers.denormals import no_denormals


def tiny() -> float:
    return float(torch.tensor(1e-40) * 1.0)


@pytest.fixture(autouse=True)
def _a_processor_that_can() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor always reckons with denormals")


def test_denormals_are_zero_inside_and_numbers_again_outside() -> None:
    with no_denormals():
        assert tiny() == 0.0
    assert tiny() > 0.0


def test_an_inner_block_doesnt_end_the_outer() -> None:
    with no_denormals():
        with no_denormals():
            pass
        assert tiny() == 0.0


def test_threads_begun_inside_reckon_alike() -> None:
    seen: list[float] = []
    with no_denormals():
        thread = threading.Thread(target=lambda: seen.append(tiny()))
        thread.start()
        thread.join()
    assert seen == [0.0]
