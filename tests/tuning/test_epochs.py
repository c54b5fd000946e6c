"""The walk through the examples: every one in every epoch, and on from wherever it was interrupted."""

from __future__ import annotations

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.examples import make_examples

from .training import PAIRS, plan


def epochs_of(base: BaseModel, by_length: bool = False) -> Epochs:
    """Three epochs of seven examples, in windows of three."""
    planned = plan(base, PAIRS[:7], num_epochs=3, batch_size=3)
    return Epochs(
        make_examples(planned.records, base.text, planned.parameters), planned.parameters, by_length
    )


def test_every_example_is_in_every_epoch(llama: BaseModel) -> None:
    epochs = epochs_of(llama)
    updates = list(epochs.left())
    assert [update.step for update in updates] == list(range(1, 10)) == list(range(1, epochs.updates + 1))
    assert [update.step for update in updates if update.ends_epoch] == [3, 6, 9]
    orders = [[n for one in updates if one.epoch == epoch for n in one.window] for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("at", range(10))
def test_it_goes_on_from_anywhere(llama: BaseModel, at: int, by_length: bool) -> None:
    whole = list(epochs_of(llama, by_length).left())
    interrupted, other = epochs_of(llama, by_length), epochs_of(llama, by_length)
    walk = interrupted.left()
    for _ in range(at):
        next(walk)
    other.load_state_dict(interrupted.state_dict())
    assert list(other.left()) == whole[at:]


def test_samples_are_counted_as_they_are_seen(llama: BaseModel) -> None:
    epochs = epochs_of(llama)
    seen = 0
    for update in epochs.left():
        seen += len(update.window)
        assert epochs.samples(update.step) == seen
