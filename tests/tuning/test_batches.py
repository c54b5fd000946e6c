"""The order of the examples, and how a batch is cut into forward passes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from caikit_pt.base_model.budget import Budget, budget_for
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.tuning import DECODER, ENCODER
from caikit_pt.tuning.batches import Pass, passes, updates_per_epoch, windows

LENGTHS = [1 + (7 * index * index) % 60 for index in range(400)]
HUGE = 2**40


# ---- windows ----


def test_an_epoch_has_every_example_once_and_a_last_window_of_what_is_left() -> None:
    generator = torch.Generator().manual_seed(1)
    epoch = list(windows(11, 4, generator))
    assert [len(window) for window in epoch] == [4, 4, 3]
    assert sorted(index for window in epoch for index in window) == list(range(11))
    assert len(epoch) == updates_per_epoch(11, 4) == 3
    assert epoch != list(windows(11, 4, generator))


@pytest.mark.parametrize(("examples", "window"), [(1, 1), (1, 8), (8, 8), (9, 8), (400, 7), (400, 400)])
@pytest.mark.parametrize("bucketed", [False, True])
def test_every_epoch_has_every_example_once(examples: int, window: int, bucketed: bool) -> None:
    lengths = LENGTHS[:examples] if bucketed else None
    epoch = list(windows(examples, window, torch.Generator().manual_seed(2), lengths))
    assert sorted(index for cut in epoch for index in cut) == list(range(examples))
    assert len(epoch) == updates_per_epoch(examples, window)
    sizes = sorted((len(cut) for cut in epoch), reverse=True)
    assert sizes[:-1] == [window] * (len(epoch) - 1)
    assert sizes[-1] == (examples % window or window)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_a_seed_gives_the_same_windows_whatever_the_global_state(lengths: list[int] | None) -> None:
    first = list(windows(400, 8, torch.Generator().manual_seed(3), lengths))
    torch.rand(5)
    state = torch.get_rng_state()
    assert list(windows(400, 8, torch.Generator().manual_seed(3), lengths)) == first
    assert list(windows(400, 8, torch.Generator().manual_seed(4), lengths)) != first
    assert torch.equal(state, torch.get_rng_state())


def test_windows_by_length_have_far_less_padding_than_a_fair_draw() -> None:
    def padding(lengths: list[int] | None) -> int:
        cut = windows(400, 8, torch.Generator().manual_seed(5), lengths)
        rows = [[LENGTHS[index] for index in window] for window in cut]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    assert padding(LENGTHS) < 0.1 * padding(None)


def test_windows_by_length_come_in_no_order_of_length() -> None:
    epoch = windows(400, 8, torch.Generator().manual_seed(6), LENGTHS)
    longest = [max(LENGTHS[index] for index in window) for window in epoch]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


# ---- forward passes ----


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("positions", [1, 10, 64, 200, HUGE])
@pytest.mark.parametrize("tokens", [1, 10, HUGE])
def test_passes_have_every_row_once_and_keep_to_the_budget(
    base: BaseModel, packed: bool, positions: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.training, "trains_packed", packed)
    batch, prompts = _batch(), _prompts(base)
    cut = passes(batch, base, prompts, Budget(positions, tokens * base.weights.vocabulary))
    assert sorted(row for part in cut for row in part.rows) == list(range(len(batch.sources)))
    for part in cut:
        _assert_holds(part, batch)
        if len(part.rows) > 1:
            costs = [_cost(base, batch, prompts, row) for row in part.rows]
            targets = [len(batch.targets[row]) for row in part.rows]
            assert _total(costs, packed) <= positions
            assert _total(targets, packed) <= tokens
    if positions == tokens == HUGE:
        assert len(cut) == 1


@pytest.mark.parametrize("packed", [True, False])
def test_passes_are_as_full_as_the_budget_allows(
    base: BaseModel, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row of a pass had no room in the one before."""
    monkeypatch.setattr(base.training, "trains_packed", packed)
    batch, prompts = _batch(), _prompts(base)
    cut = passes(batch, base, prompts, Budget(100, HUGE))
    for part, following in pairwise(cut):
        rows = [*part.rows, following.rows[0]]
        assert _total([_cost(base, batch, prompts, row) for row in rows], packed) > 100


def test_rows_of_a_pass_are_of_much_the_same_length(llama: BaseModel) -> None:
    batch, prompts = _batch(), _prompts(llama)
    cut = passes(batch, llama, prompts, Budget(100, HUGE))
    costs = [_cost(llama, batch, prompts, row) for part in cut for row in part.rows]
    assert costs == sorted(costs, reverse=True)


def test_a_batch_without_owners_belongs_to_the_first_prompt(llama: BaseModel) -> None:
    (part,) = passes(TrainingBatch([[5], [6, 7]], [[8], [9]]), llama, _prompts(llama), Budget(HUGE, HUGE))
    assert part.batch.prompt_of_rows == [0, 0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_halved_budget_is_half_of_both(device: str) -> None:
    budget = budget_for(device, 512)
    assert budget.halved() == Budget(budget.positions // 2, budget.logits // 2)


# ---- helpers ----


def _batch() -> TrainingBatch:
    sources = [[5] * length for length in LENGTHS[:40]]
    targets = [[6] * (1 + index * index % 13) for index in range(40)]
    return TrainingBatch(sources, targets, [index % 2 for index in range(40)])


def _prompts(base: BaseModel) -> list[dict[str, torch.Tensor]]:
    parts = base.checkpoint.prompt_parts
    assert {*parts} <= {ENCODER, DECODER}
    return [{part: torch.zeros(rows, base.checkpoint.hidden_size) for part in parts} for rows in (4, 9)]


def _cost(base: BaseModel, batch: TrainingBatch, prompts: list[dict[str, torch.Tensor]], row: int) -> int:
    owner = prompts[batch.prompts[row]]
    return base.training.positions(len(batch.sources[row]), len(batch.targets[row]), owner)


def _total(sizes: list[int], packed: bool) -> int:
    return sum(sizes) if packed else max(sizes) * len(sizes)


def _assert_holds(part: Pass, batch: TrainingBatch) -> None:
    assert part.batch.sources == [batch.sources[row] for row in part.rows]
    assert part.batch.targets == [batch.targets[row] for row in part.rows]
    assert part.batch.prompts == [batch.prompts[row] for row in part.rows]
