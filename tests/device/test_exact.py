"""An update on a device gives the numbers of a CPU, of every packed family in float64, and waits for nothing.

What a CPU gives is tested against the slow and obvious version in tests/numerics.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.numerics.answers import soft_prompt
from tests.numerics.families import ALL_FAMILIES, PADDED_FAMILIES, Zoo
from tests.numerics.precision import everything_in_float64

from .bases import on_device
from .product import BaseModel, TrainingBatch, backward
from .simulated import SimulatedDevice

# Several lengths, two prompts, and more than a sliding window sees.
SOURCES = [[5, 6, 7], [8] * 12, [9], list(range(5, 25)), [7, 9, 11, 13, 15]]
TARGETS = [[10, 2], [11, 12, 13, 2], [14, 2], [6, 2], [8, 9, 10, 2]]
OWNERS = [0, 1, 1, 0, 1]
LENGTHS = (4, 9)
WEIGHTS = [0.5, 1.0, 0.25, 2.0, 1.5]


# torch's product of experts knows no float64 on GPUs.
EXPERTS = {"mixtral", "phimoe_longrope"}
# Loaded there, they keep the factor of their embeddings in float32.
SCALED = {"gemma", "gemma3"}


@pytest.mark.parametrize("family", sorted({*ALL_FAMILIES} - PADDED_FAMILIES - EXPERTS))
def test_losses_and_gradients_are_those_of_a_cpu(zoo: Zoo, family: str) -> None:
    here = zoo.model(family, "float64")
    there = on_device(zoo.checkpoint(family), dtype="float64")
    parts = here.checkpoint.prompt_parts
    prompts = [
        {part: soft_prompt(here, length, seed=side) for side, part in enumerate(parts, number * 2)}
        for number, length in enumerate(LENGTHS)
    ]
    with everything_in_float64():
        expected, gradients = _computed(here, prompts)
        with SimulatedDevice() as device:
            assert there.training.trains_packed
            moved = [{part: rows.to("sim:0") for part, rows in prompt.items()} for prompt in prompts]
            _computed(there, moved)
            with device.counted() as record:
                seen, seen_gradients = _computed(there, moved)
            assert record.waits == []
            results = [seen.cpu(), *(each.cpu() for each in seen_gradients)]
    tolerance = 1e-6 if family in SCALED else 1e-9
    for a, b in zip([expected, *gradients], results, strict=True):
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)


def _computed(
    base: BaseModel, prompts: Sequence[dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [
        {part: rows.double().detach().requires_grad_() for part, rows in each.items()} for each in prompts
    ]
    losses = backward(base, leaves, TrainingBatch(SOURCES, TARGETS, OWNERS), WEIGHTS)
    return losses, [rows.grad for each in leaves for rows in each.values() if rows.grad is not None]
