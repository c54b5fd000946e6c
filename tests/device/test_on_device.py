"""The product on a simulated device: loaded, tried, trained and asked there, with the numbers of a CPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SETTINGS
from tests.numerics.families import PADDED_FAMILIES, Zoo
from tests.tuning.sources import source_plan
from tests.tuning.training import curve, plan

from .backend import FREE_BYTES
from .bases import SECOND, on_device
from .product import (
    BaseModel,
    Engine,
    Limits,
    Progress,
    Request,
    Snapshots,
    TrainingInterrupted,
    Worker,
    budget_for,
    check_answers,
    check_batching,
    check_packing,
    check_training,
    free_memory_of,
    limits,
    losses,
    recomputing,
    tune,
    tune_source,
)
from .record import Cause
from .report import counted, trained
from .rules import Refused
from .simulated import SimulatedDevice
from .work import RECORDS, Training, confined, greedy, sampled, under_way

# One of each kind that embeds, looks, turns or counts positions in a way of its own.
FAMILIES = ("gpt2", "bloom", "gemma3", "phi3_longrope", "mixtral", "bart", "mt5")
HELD_OUT = RECORDS[:6]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"batch_size": 2, "accumulate_steps": 3},
    "multitask": {"tuning_type": "MULTITASK_PROMPT_TUNING", "task_learning_rate": 0.05},
    "residual": {"reparameterization": "residual", "max_grad_norm": 1.0},
    "adafactor": {"optimizer": "adafactor"},
}
JUDGED: dict[str, dict[str, Any]] = {
    "labels": {"tuning_task": "classification"},
    "search": {"search": "auto", "num_virtual_tokens": None, "learning_rate": None},
}


# ---- loading and trials ----


def test_a_model_passes_all_its_trials_there(
    device: SimulatedDevice, base_there: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_answers(base_there.serving)
        assert check_batching(base_there.serving)
        assert check_packing(base_there.training)
        for part in base_there.checkpoint.prompt_parts:
            check_training(base_there.training, [part])
    assert caplog.messages == []
    tensors = [*base_there.weights.model.parameters(), *base_there.weights.model.buffers()]
    assert {str(tensor.device) for tensor in tensors} == {"sim:0"}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_what_they_are_on_a_cpu(zoo: Zoo, family: str) -> None:
    base = on_device(zoo.checkpoint(family), SECOND)
    with SimulatedDevice():
        assert base.serving.serves_batched
        assert base.training.trains_packed == (family not in PADDED_FAMILIES)
        assert str(base.weights.device) == SECOND


@pytest.mark.parametrize("family", ["llama", "olmo2", "gemma3", "phi3", "bart", "t5"])
def test_a_short_data_type_there(zoo: Zoo, family: str) -> None:
    """Some keep angles or norms in a longer type."""
    base = on_device(zoo.checkpoint(family), dtype="bfloat16")
    with SimulatedDevice():
        assert base.serving.serves_batched
        assert base.training.trains_packed


def test_what_is_made_on_the_host_is_noticed(
    device: SimulatedDevice, base_there: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault as it would be made: one tensor of a batch without its device."""
    real = base_there.weights.embed
    monkeypatch.setattr(base_there.weights, "embed", lambda ids: real(ids).cpu())
    with pytest.raises(Refused):
        Training(base_there).update()


def test_what_fits_is_told_by_the_device(device: SimulatedDevice, base_there: BaseModel) -> None:
    most = budget_for("cuda", base_there.checkpoint.hidden_size)
    found = base_there.training.memory.budget
    assert found.logits == most.logits
    kept = 16 * base_there.weights.layers * base_there.checkpoint.hidden_size * 4
    assert found.positions == min(most.positions, int(0.7 * FREE_BYTES) // kept)
    assert free_memory_of("sim:0") == FREE_BYTES
    assert limits(base_there, SETTINGS).kv_bytes == FREE_BYTES // 2


# ---- training ----


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_losses_and_gradients_are_those_of_a_cpu(base: BaseModel, base_there: BaseModel, way: str) -> None:
    expected, wanted = Training(base).update()
    with SimulatedDevice() as device, trained(base_there, way == "packed"):
        training = Training(base_there)
        loss, gradients = training.update()
        with device.counted() as second:
            training.update()
        with device.counted() as third:
            training.update()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        for gradient, of_cpu in zip(gradients, wanted, strict=True):
            assert _apart(gradient.cpu(), of_cpu) < 1e-4
    assert second.work == third.work
    assert second.waits == third.waits


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adafactor"])
def test_the_host_does_not_wait_for_an_update_to_be_made(
    device: SimulatedDevice, base_there: BaseModel, kind: str
) -> None:
    """Whether all numbers are finite is decided there."""
    training = Training(base_there, **KINDS[kind])
    for _ in range(2):
        loss, _ = training.compute()
        with device.counted() as made:
            training.learner.step(loss)
        assert made.waits == []


def test_layers_that_are_computed_twice(base: BaseModel, base_there: BaseModel) -> None:
    with SimulatedDevice(), recomputing():
        loss, gradients = Training(base_there).update()
        seen = float(loss), [gradient.cpu() for gradient in gradients]
    expected, wanted = Training(base).update()
    assert seen[0] == pytest.approx(float(expected), rel=1e-5)
    assert all(_apart(*pair) < 1e-4 for pair in zip(seen[1], wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_that_of_a_cpu(base: BaseModel, base_there: BaseModel, kind: str) -> None:
    planned = plan(
        base, RECORDS[:8], tuning_task="generation", num_epochs=1, **{"batch_size": 4, **KINDS[kind]}
    )
    _trains_alike(planned, base, base_there)


@pytest.mark.parametrize("kind", JUDGED)
def test_a_training_that_is_judged_is_that_of_a_cpu(
    base: BaseModel, base_there: BaseModel, kind: str
) -> None:
    asked = {"tuning_task": "generation", "num_epochs": 2, "batch_size": 5, **JUDGED[kind]}
    _trains_alike(plan(base, RECORDS[6:16], HELD_OUT, **asked), base, base_there)


def _trains_alike(planned: Any, base: BaseModel, base_there: BaseModel) -> None:
    expected = tune(planned, base)
    with SimulatedDevice():
        tuned = tune(planned, base_there)
    # The first updates of AdamW turn on the sign of a gradient, however small: it is not rounding alone.
    assert curve(tuned) == pytest.approx(curve(expected), abs=0.02)
    for part, tensor in expected.prompt.tensors.items():
        assert str(tuned.prompt.tensors[part].device) == "cpu"
        assert _apart(tuned.prompt.tensors[part], tensor) < 0.02
    assert tuned.verdict["kept"] == expected.verdict["kept"]


def test_a_source_training_is_that_of_a_cpu(base: BaseModel, base_there: BaseModel) -> None:
    """Its teachers, too; and it is on the host in the end."""
    layers = [1, base.checkpoint.layers]
    planned = source_plan(
        base, num_epochs=1, teacher_epochs=1, num_ranks=2, state_weight=0.5, state_layers=layers
    )
    expected = tune_source(planned, base)
    with SimulatedDevice():
        trained = tune_source(planned, base_there)
    for name in ("shared", "columns", "rows"):
        found = getattr(trained.source, name)
        assert str(found.device) == "cpu"
        assert _apart(found, getattr(expected.source, name)) < 0.02
    for one, other in zip(trained.tasks, expected.tasks, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=0.1, abs=0.1)


@pytest.mark.parametrize("kind", ["plain", "adafactor"])
def test_a_training_that_was_interrupted_goes_on_there(
    device: SimulatedDevice, base_there: BaseModel, kind: str, tmp_path: Path
) -> None:
    """What was kept is on the host, and goes back to where it was."""
    asked = {"tuning_task": "generation", "num_epochs": 2, "batch_size": 4, **KINDS[kind]}
    planned = plan(base_there, RECORDS[:8], **asked)
    snapshots = Snapshots(tmp_path, 0.0)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            snapshots.stop.set()

    with pytest.raises(TrainingInterrupted):
        tune(planned, base_there, stop, snapshots=snapshots)
    resumed = tune(planned, base_there, snapshots=Snapshots(tmp_path, math.inf)).prompt
    for part, tensor in tune(planned, base_there).prompt.tensors.items():
        assert torch.equal(resumed.tensors[part], tensor)


def test_losses_without_gradients(base: BaseModel, base_there: BaseModel) -> None:
    batch = Training(base).batch
    prompt = greedy(base, 3).prompt
    expected = losses(base, [prompt.tensors], batch)
    with SimulatedDevice():
        seen = losses(base_there, [prompt.to(base_there.weights.device).tensors], batch).tolist()
    assert seen == pytest.approx(expected.tolist(), rel=1e-4)


# ---- serving ----


@pytest.mark.parametrize("make", [greedy, sampled, confined])
def test_answers_are_those_of_a_cpu(
    base: BaseModel, base_there: BaseModel, make: Callable[[BaseModel, int], Request]
) -> None:
    """More rows than there is room for: some join when others leave."""
    expected = _answered(base, [make(base, number) for number in range(9)])
    with SimulatedDevice():
        seen = _answered(base_there, [make(base_there, number) for number in range(9)])
    assert seen == expected


def test_rows_of_every_kind_share_a_batch(base: BaseModel, base_there: BaseModel) -> None:
    def requests(asked: BaseModel) -> list[Request]:
        told = {"generated_tokens": True, "token_logprobs": True, "token_ranks": True}
        return [
            make(asked, number, **fields)
            for number in range(3)
            for make, fields in ((greedy, told), (sampled, {}), (confined, {"label_probabilities": True}))
        ]

    expected = _answered(base, requests(base))
    with SimulatedDevice():
        assert _answered(base_there, requests(base_there)) == expected


def test_a_thread_of_its_own_answers_alike(base: BaseModel, base_there: BaseModel) -> None:
    expected = [generated for generated, _ in _answered(base, [greedy(base, number) for number in range(3)])]
    with SimulatedDevice() as device:
        worker = Worker(base_there, limits(base_there, SETTINGS))
        under_way = [worker.submit(greedy(base_there, number)) for number in range(3)]
        assert [each.result().generated for each in under_way] == expected
    assert device.record.causes[Cause.TO_HOST]


def test_steps_are_alike_until_rows_come_or_go(base_there: BaseModel) -> None:
    """What a captured graph would need: the same work, but for a length that grows."""
    with SimulatedDevice() as device:
        requests = [greedy(base_there, number, min_new_tokens=9, max_new_tokens=12) for number in range(3)]
        engine = under_way(base_there, requests, 3)
        first, second = counted(device, engine.step), counted(device, engine.step)
    assert [each.name for each in first.operations] == [each.name for each in second.operations]
    assert first.waits == second.waits
    assert first.causes[Cause.TO_HOST] == 1


# ---- helpers ----


def _answered(base: BaseModel, requests: Sequence[Request]) -> list[tuple[list[int], str]]:
    engine = Engine(base, Limits(rows=4))
    for each in requests:
        engine.submit(each)
    while engine.busy:
        engine.step()
    return [(each.generated, each.text) for each in requests]


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
