"""Prompts of several tasks that share rows, against the product written out."""

from __future__ import annotations

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from tests.tuning.training import plan

TASKS, TOKENS, WIDTH = 3, 4, 6
SIDES = (("ENCODER",), ("DECODER",), ("DECODER", "ENCODER"))
every_kind = pytest.mark.parametrize(
    ("parts", "ranks"), [(parts, ranks) for parts in SIDES for ranks in (1, 3)]
)


def drawn(base: BaseModel, parts: tuple[str, ...], ranks: int) -> tuple[SoftPrompt, TaskPrompts]:
    planned = plan(base, tuning_type="MULTITASK_PROMPT_TUNING", learning_rate=0.3, task_learning_rate=0.02)
    generator = torch.Generator().manual_seed(3)
    initial = SoftPrompt({part: torch.randn(TOKENS, WIDTH, generator=generator) for part in parts})
    return initial, TaskPrompts(initial, TASKS, ranks, planned.parameters, generator)


@every_kind
def test_every_task_begins_as_the_initial_prompt(
    llama: BaseModel, parts: tuple[str, ...], ranks: int
) -> None:
    initial, trained = drawn(llama, parts, ranks)
    for prompt in trained.prompts(range(TASKS)):
        assert prompt.keys() == initial.tensors.keys()
        assert all(torch.equal(prompt[part], initial.tensors[part]) for part in parts)


@every_kind
def test_gradients_are_those_of_the_obvious_product(
    llama: BaseModel, parts: tuple[str, ...], ranks: int
) -> None:
    """Of some tasks, in an order of their own; the others get none."""
    _, trained = drawn(llama, parts, ranks)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in trained.tensors:
            tensor += torch.randn(tensor.shape, generator=generator)
    asked = (2, 0)
    factors = torch.randn(len(asked), len(parts), TOKENS, WIDTH, generator=generator)
    shared, columns, rows = (tensor.detach().clone().requires_grad_() for tensor in trained.tensors)
    expected, seen = torch.zeros(()), torch.zeros(())
    prompts = trained.prompts(asked)
    for number, task in enumerate(asked):
        for side, part in enumerate(sorted(parts, reverse=True)):
            for token in range(TOKENS):
                at = side * TOKENS + token
                product = sum(columns[task, at, rank] * rows[task, rank] for rank in range(ranks))
                expected = expected + (shared[at] * product * factors[number, side, token]).sum()
            seen = seen + (prompts[number][part] * factors[number, side]).sum()
    expected.backward()  # type: ignore[no-untyped-call]
    seen.backward()  # type: ignore[no-untyped-call]
    for ours, obvious in zip(trained.tensors, (shared, columns, rows), strict=True):
        torch.testing.assert_close(ours.grad, obvious.grad)
    assert trained.columns.grad is not None
    assert not trained.columns.grad[1].any()


def test_every_rank_can_learn(llama: BaseModel) -> None:
    _, trained = drawn(llama, ("DECODER",), 3)
    (sum(prompt["DECODER"].square().sum() for prompt in trained.prompts(range(TASKS)))).backward()  # type: ignore[union-attr]
    assert trained.columns.grad is not None
    assert trained.columns.grad.abs().amin() > 0
    # No two ranks go the same way.
    assert not torch.equal(trained.columns.grad[..., 1], trained.columns.grad[..., 2])


def test_shared_rows_and_task_vectors_have_rates_of_their_own(llama: BaseModel) -> None:
    _, trained = drawn(llama, ("DECODER",), 1)
    shared, of_tasks = trained.parameter_groups()
    assert [id(one) for one in shared["params"]] == [id(trained.shared)]
    assert [id(one) for one in of_tasks["params"]] == [id(trained.columns), id(trained.rows)]
    assert (shared["lr"], of_tasks["lr"]) == (0.3, 0.02)


@every_kind
def test_what_is_finished_is_a_source_of_the_same_prompts(
    llama: BaseModel, parts: tuple[str, ...], ranks: int
) -> None:
    _, trained = drawn(llama, parts, ranks)
    with torch.no_grad():
        trained.columns += 0.25
    source = trained.finished(["one", "two", "three"])
    assert (source.submodules, source.num_ranks, source.tasks) == (len(parts), ranks, ("one", "two", "three"))
    for task, prompt in enumerate(trained.prompts(range(TASKS))):
        for part in parts:
            torch.testing.assert_close(source.on(part).task(task), prompt[part].detach())
