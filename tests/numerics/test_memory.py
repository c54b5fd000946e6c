"""Where memory doesn't suffice, a batch is cut into smaller forward passes, and nothing else changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.layers.recompute import _RECOMPUTING
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.base_model.training.causal import PackedCausalStep
from caikit_pt.base_model.training.seq2seq import PackedSeq2SeqStep
from caikit_pt.base_model.training.step import PaddedStep, Step
from caikit_pt.base_model.training.targets import Targets
from caikit_pt.tuning.losses import backward, losses

from .answers import ROUNDING, soft_prompt
from .families import Zoo
from .precision import everything_in_float64

ROOM = 40  # positions
BATCH = TrainingBatch(
    [[7, 8 + row, *range(9, 9 + 3 * row % 11)] for row in range(12)],
    [[40 + row, *range(50, 50 + row % 4), 2] for row in range(12)],
)
WEIGHTS = [1 / (3 + row) for row in range(12)]
KINDS: tuple[type[Step], ...] = (PackedCausalStep, PackedSeq2SeqStep, PaddedStep)

every_way = pytest.mark.parametrize("family", ["llama", "t5", "bloom"])


@pytest.fixture(autouse=True)
def _same_budget_for_all(zoo: Zoo) -> Iterator[None]:
    """What a test has found to fit isn't what others begin with."""
    bases = [zoo.model(family, "float64") for family in ("llama", "t5", "bloom")]
    assert [base.training.trains_packed for base in bases] == [True, True, False]
    before = [base.training.memory.budget for base in bases]
    yield
    for base, budget in zip(bases, before, strict=True):
        base.training.memory.budget = budget


@every_way
@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("message", ["", "[enforce fail] . DefaultCPUAllocator: can't allocate memory"])
def test_gradients_are_those_of_an_untroubled_run(
    zoo: Zoo,
    family: str,
    when: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = zoo.model(family, "float64")
    base.training.memory.budget = Budget(8 * ROOM, 2**24)
    expected = _run(base)
    error = RuntimeError(message) if message else torch.OutOfMemoryError()
    seen = _short_of_memory(monkeypatch, base, error, when)
    with caplog.at_level(logging.WARNING, "caikit_pt"):
        _assert_same(_run(base), expected)
    assert max(seen) > ROOM, "it didn't fit at first"
    assert base.training.memory.budget == Budget(ROOM, 2**21), "no smaller than it had to be"
    assert "out of memory; passes of" in caplog.text


@every_way
@pytest.mark.parametrize("failing", [2, 3])
def test_passes_before_the_one_that_fails_count_once(
    zoo: Zoo, family: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo.model(family, "float64")
    base.training.memory.budget = Budget(ROOM, 2**24)
    expected = _run(base)
    calls: list[int] = []

    def fails_once(real: Callable[..., Targets]) -> Callable[..., Targets]:
        def targets(step: Step, batch: TrainingBatch, *more: Any) -> Targets:
            calls.append(len(batch.sources))
            if len(calls) == failing:
                raise torch.OutOfMemoryError
            return real(step, batch, *more)

        return targets

    for kind in KINDS:
        monkeypatch.setattr(kind, "targets", fails_once(kind.targets))
    _assert_same(_run(base), expected)
    assert sum(calls[failing:]) == len(WEIGHTS), "all rows once more"


@every_way
def test_the_next_run_begins_with_what_has_fitted(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo.model(family, "float64")
    seen = _short_of_memory(monkeypatch, base, torch.OutOfMemoryError(), "forward")
    _run(base)
    found = base.training.memory.budget
    seen.clear()
    _run(base)
    assert base.training.memory.budget == found
    assert max(seen) <= ROOM


@every_way
def test_losses_without_gradients_get_through_too(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo.model(family, "float64")
    with everything_in_float64():
        expected = losses(base, [_prompt(base)], BATCH)
        _short_of_memory(monkeypatch, base, torch.OutOfMemoryError(), "forward")
        seen = losses(base, [_prompt(base)], BATCH)
    torch.testing.assert_close(seen, expected, rtol=ROUNDING, atol=0)
    assert not seen.requires_grad


@every_way
def test_another_error_passes_at_once(zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = zoo.model(family, "float64")
    began = base.training.memory.budget
    seen = _short_of_memory(monkeypatch, base, RuntimeError("something else"), "forward")
    with pytest.raises(RuntimeError, match="something else"):
        _run(base)
    assert len(seen) == 1
    assert base.training.memory.budget == began


@every_way
def test_where_no_row_fits_layers_are_computed_twice(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In passes that are as large as then fit; the next run begins with these."""
    base = zoo.model(family, "float64")
    base.training.memory.budget = Budget(4 * ROOM, 2**24)
    expected = _run(base)
    seen = _short_of_memory(monkeypatch, base, torch.OutOfMemoryError(), "forward", unless=_RECOMPUTING.get)
    _assert_same(_run(base), expected)
    assert base.training.memory.budget == Budget(ROOM, 2**22, recompute=True)
    assert f"passes of {ROOM} positions from now on, every layer computed twice" in caplog.text
    seen.clear()
    _assert_same(_run(base), expected)
    assert max(seen) <= ROOM


@every_way
def test_without_gradients_there_is_nothing_to_compute_twice(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = zoo.model(family, "float64")
    base.training.memory.budget = began = Budget(4 * ROOM, 2**24)
    _short_of_memory(monkeypatch, base, torch.OutOfMemoryError(), "forward", room=0)
    with pytest.raises(torch.OutOfMemoryError):
        losses(base, [_prompt(base)], BATCH)
    assert base.training.memory.budget == began


def test_a_row_that_never_fits_is_an_error_in_the_end(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    base = zoo.model("llama", "float64")
    base.training.memory.budget = Budget(64, 2**24)
    _short_of_memory(monkeypatch, base, torch.OutOfMemoryError("for good"), "forward", room=0)
    with pytest.raises(torch.OutOfMemoryError, match="for good"):
        _run(base)


def test_what_fails_on_the_way_through_the_prompt_is_not_tried_again(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the gradients may have arrived: another try would count them twice."""
    base = zoo.model("llama", "float64")
    tries: list[Step] = []

    def fails(step: Step) -> None:
        tries.append(step)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(PackedCausalStep, "finish", fails)
    with pytest.raises(torch.OutOfMemoryError):
        _run(base)
    assert len(tries) == 1


# ---- helpers ----


def _prompt(base: BaseModel) -> dict[str, torch.Tensor]:
    parts = base.checkpoint.prompt_parts
    return {
        part: soft_prompt(base, 3, seed=side).to(base.weights.dtype).requires_grad_()
        for side, part in enumerate(parts)
    }


def _run(base: BaseModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses, and the gradients of a prompt that is made of something."""
    leaves = _prompt(base)
    with everything_in_float64():
        costs = backward(base, [{part: 2 * leaf for part, leaf in leaves.items()}], BATCH, WEIGHTS)
    return costs, [leaf.grad for leaf in leaves.values() if leaf.grad is not None]


def _assert_same(
    seen: tuple[torch.Tensor, list[torch.Tensor]], expected: tuple[torch.Tensor, list[torch.Tensor]]
) -> None:
    torch.testing.assert_close(seen[0], expected[0], rtol=ROUNDING, atol=0)
    assert seen[1]
    for gradient, reference in zip(seen[1], expected[1], strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=ROUNDING)


def _short_of_memory(
    monkeypatch: pytest.MonkeyPatch,
    base: BaseModel,
    error: RuntimeError,
    when: str,
    room: int = ROOM,
    unless: Callable[[], bool] = lambda: True,
) -> list[int]:
    """From now on passes of more than `room` positions fail with `error`; the positions of each pass.

    And `unless` something holds, so does every pass.
    """
    seen: list[int] = []

    def fail(_: torch.Tensor) -> None:
        raise error

    def limited(real: Callable[..., Targets]) -> Callable[..., Targets]:
        def targets(step: Step, batch: TrainingBatch, *more: Any) -> Targets:
            seen.append(_positions(base, batch, _prompt(base)))
            if seen[-1] <= room and unless():
                return real(step, batch, *more)
            if when == "forward":
                raise error
            told = real(step, batch, *more)
            told.logits.register_hook(fail)  # type: ignore[no-untyped-call]
            return told

        return targets

    for kind in KINDS:
        monkeypatch.setattr(kind, "targets", limited(kind.targets))
    return seen


def _positions(base: BaseModel, batch: TrainingBatch, prompt: PromptTensors) -> int:
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]] = list(
        zip(batch.sources, batch.targets, strict=True)
    )
    costs = [base.training.positions(len(source), len(target), prompt) for source, target in pairs]
    return sum(costs) if base.training.trains_packed else max(costs) * len(costs)
