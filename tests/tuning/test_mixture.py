"""How tasks that are trained together share the updates."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.mixture import Mixture, OfTask
from caikit_pt.tuning.walk import Update

from .training import plan

SIZES = (7, 40, 3)
MOST = 20


def mixture(base: BaseModel, by_length: bool = False, most: int = MOST) -> Mixture:
    lengths = [[5 + 3 * index % 11 for index in range(size)] for size in SIZES]
    return Mixture(lengths, most, plan(base, num_epochs=3, batch_size=4).parameters, by_length)


def of_epoch(updates: list[Update[OfTask]], epoch: int) -> list[tuple[int, int]]:
    return [example for one in updates if one.epoch == epoch for example in one.window]


@pytest.mark.parametrize("by_length", [False, True])
def test_an_epoch_has_each_example_once_and_of_a_large_task_as_many_as_it_may(
    llama: BaseModel, by_length: bool
) -> None:
    mixed = mixture(llama, by_length)
    updates = list(mixed.left())
    assert [one.step for one in updates] == list(range(1, 25)) == list(range(1, mixed.updates + 1))
    assert [one.step for one in updates if one.ends_epoch] == [8, 16, 24]
    for epoch in (1, 2, 3):
        seen = of_epoch(updates, epoch)
        assert len(set(seen)) == len(seen) == mixed.examples
        assert Counter(task for task, _ in seen) == {0: 7, 1: MOST, 2: 3}
    # Those that the cap leaves out are others each time.
    assert len({index for task, index in of_epoch(updates, 1) + of_epoch(updates, 2) if task == 1}) > MOST


def test_without_a_cap_that_binds_tasks_have_the_proportions_of_their_sizes(llama: BaseModel) -> None:
    updates = list(mixture(llama, most=1000).left())
    assert Counter(task for task, _ in of_epoch(updates, 2)) == dict(enumerate(SIZES))


def test_tasks_are_shuffled_together(llama: BaseModel) -> None:
    """A draw without replacement of 30 in windows of 4: few windows have one task alone."""
    updates = list(mixture(llama).left())
    alone = sum(len({task for task, _ in one.window}) == 1 for one in updates)
    assert alone < len(updates) / 2


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("at", [0, 1, 7, 8, 9, 16, 20, 24])
def test_it_goes_on_from_anywhere(llama: BaseModel, at: int, by_length: bool) -> None:
    whole = list(mixture(llama, by_length).left())
    interrupted, other = mixture(llama, by_length), mixture(llama, by_length)
    walk = interrupted.left()
    for _ in range(at):
        next(walk)
    torch.manual_seed(at)
    other.load_state_dict(interrupted.state_dict())
    assert list(other.left()) == whole[at:]


def test_samples_are_counted_as_they_are_seen(llama: BaseModel) -> None:
    mixed, seen = mixture(llama), 0
    for update in mixed.left():
        seen += len(update.window)
        assert mixed.samples(update.step) == seen
