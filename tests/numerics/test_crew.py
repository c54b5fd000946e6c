"""Two and three workers against one, on every family: exact but for the last digits of float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.tuner import tune

from .families import ALL_FAMILIES, Zoo
from .precision import everything_in_float64
from .tunings import small_plan

# Of prompts whose rows are about 1, after four updates by Adam. The order of a sum is what differs.
ROUNDING = 2e-14


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_workers_are_one_in_float64(zoo: Zoo, family: str) -> None:
    """Windows of five records and of two, which three workers can't share evenly."""
    base = zoo.model(family, "float64")
    with everything_in_float64():
        asked = partial(small_plan, base, zoo.settings, examples=7, batch_size=5)
        one = tune(asked(), base)
        for workers in (1, 2, 3):
            compute = partial(gradients, backward=Crew(workers).backward)
            shared = tune(asked(), base, gradients=compute)
            for part, tensor in one.prompt.tensors.items():
                assert tensor.dtype == torch.float64
                atol = ROUNDING if workers > 1 else 0.0
                torch.testing.assert_close(shared.prompt.tensors[part], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize("family", ["llama", "t5", "gemma2"])
def test_gradients_are_those_of_one_to_rounding(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    asked = partial(small_plan, base, zoo.settings, examples=7, batch_size=5)
    one = tune(asked(), base)
    shared = tune(asked(), base, gradients=partial(gradients, backward=Crew(3).backward))
    for part, tensor in one.prompt.tensors.items():
        torch.testing.assert_close(shared.prompt.tensors[part], tensor, rtol=0, atol=2e-5)
