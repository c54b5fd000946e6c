"""What a device is given to do: how often the host waits for it, and how many operations it gets.

On a GPU an operation costs some microseconds whatever its size, and a wait all that is under way.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import LLAMA
from tests.tuning.sources import source_plan

from .product import BaseModel, SoftPrompt, TaskLearner, TaskPrompts, Teaching, TrainingBatch, losses
from .record import Kind, Record
from .report import counted, trained
from .simulated import SimulatedDevice
from .work import Training

# A layer's in an update, both ways, of those that compute (views not counted).
OPERATIONS = 60
WAYS = pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])


@WAYS
def test_an_update_waits_for_nothing(device: SimulatedDevice, base_there: BaseModel, packed: bool) -> None:
    record = updated(device, base_there, packed)
    assert record.waits == []


@WAYS
def test_an_update_of_several_tasks_with_lessons_waits_for_nothing(
    device: SimulatedDevice, base_there: BaseModel, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_there.training, "trains_packed", packed)
    planned = source_plan(base_there, state_weight=0.5, distillation_temperature=2.0)
    width, (part, *_) = base_there.checkpoint.hidden_size, planned.training.output_model_types
    prompts = [SoftPrompt({part: torch.randn(3, width)}).to(base_there.weights.device) for _ in range(3)]
    learner = TaskLearner(
        TaskPrompts(prompts[0], 3, 2, planned.training, torch.Generator()), planned.training, 9
    )
    teaching = Teaching(base_there, [prompt.tensors for prompt in prompts], planned.parameters)
    of_one = Training(base_there).batch
    batch = TrainingBatch(of_one.sources, of_one.targets, [0, 2, 1, 1, 0, 2, 2, 0])
    for _ in range(2):
        with device.counted() as made:
            learner.step(learner.gradients(base_there, batch, teaching))
    assert made.waits == []


@WAYS
def test_an_update_sends_one_tensor_and_one_for_each_pass(
    device: SimulatedDevice, base_there: BaseModel, packed: bool
) -> None:
    """Of a decoder-only model the prompt is read in a pass of its own."""
    sent = [each for each in updated(device, base_there, packed).operations if each.kind is Kind.COPY]
    passes = 1 + (packed and not base_there.checkpoint.config.is_encoder_decoder)
    assert len(sent) == 1 + passes, sent


def test_a_layer_takes_few_operations_however_many_rows_there_are(
    device: SimulatedDevice, base_there: BaseModel
) -> None:
    """Longer rows and more of them are larger operations, not more."""
    trainings = [Training(base_there, records) for records in (3, 16)]
    for training in trainings:
        training.compute()
    few, many = (len(counted(device, training.compute).computing) for training in trainings)
    assert few == many
    config = base_there.checkpoint.config
    layers = config.num_hidden_layers + (config.num_decoder_layers if config.is_encoder_decoder else 0)
    passes = 1 if config.is_encoder_decoder else 2
    assert many <= OPERATIONS * layers * passes


def test_rows_of_several_prompts_take_no_more_positions(
    device: SimulatedDevice, there: dict[str, BaseModel]
) -> None:
    """Of trainings of the same records, sorted by length, rows take turns: each had a bin of its own."""
    base = there[LLAMA]
    training = Training(base, 16)
    prompt = training.learner.prompt.finished().to(base.weights.device).tensors
    batch, others = training.batch, 8
    joined = TrainingBatch(
        list(batch.sources) * others,
        list(batch.targets) * others,
        [number for number in range(others) for _ in batch.sources],
    )
    needed = sum(len(one) + len(other) for one, other in zip(joined.sources, joined.targets, strict=True))
    record = counted(device, lambda: losses(base, [prompt] * others, joined))
    assert record.waits == []
    read = [each.shapes[1][0] for each in record.operations if each.name == "embedding.default"]
    assert max(read) <= needed


def test_losses_without_a_gradient_wait_for_nothing(device: SimulatedDevice, base_there: BaseModel) -> None:
    training = Training(base_there)
    prompts = [training.learner.prompt.finished().to(base_there.weights.device).tensors]
    record = counted(device, lambda: losses(base_there, prompts, training.batch))
    assert record.waits == []


def updated(
    device: SimulatedDevice, base: BaseModel, packed: bool, records: int = 8, **request: Any
) -> Record:
    """A second update: what is made once for a model is made."""
    assert base.training.trains_packed or not packed
    with trained(base, packed):
        training = Training(base, records, **request)
        training.update()
        return counted(device, training.update)
