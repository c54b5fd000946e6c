"""Workers that share a training: as one alone, and the same bits whoever of them is there."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.batches import shares
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.errand import Errand, Taught
from caikit_pt.tuning.group import Group, GroupBroken
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_training import SourceTraining
from caikit_pt.tuning.tuner import tune
from tests.numerics.precision import everything_in_float64
from tests.whole import WHOLE

from .crews import crew_of, tuned_by
from .sources import same_source, source_plan
from .test_snapshot import KINDS, Interrupting, plan_of, same
from .training import PAIRS, curve, plan

# Of float64, behind some tens of updates; Adafactor divides by what is nearly nothing.
ROUNDING, ROUNDING_OF_ADAFACTOR = 1e-9, 1e-4


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 12))
def test_shares_are_all_rows_in_their_order_and_much_the_same(costs: list[int], count: int) -> None:
    cut = shares(costs, count)
    assert len(cut) == count
    assert [row for share in cut for row in share] == list(range(len(costs)))
    assert all(one.stop == other.start for one, other in pairwise(cut))
    if costs:
        mean = sum(costs) / count
        assert all(abs(sum(costs[row] for row in share) - mean) <= max(costs) for share in cut)


def test_an_errand_is_what_it_was_when_it_arrives() -> None:
    prompts = [{"ENCODER": torch.randn(2, 3), "DECODER": torch.randn(1, 3)}, {"DECODER": torch.randn(4, 3)}]
    taught = Taught([{"DECODER": torch.randn(2, 3)}], [0, 0], {"tokens": 0.1, "layers": [-1, 2]})
    batch = TrainingBatch([[1, 2], [3]], [[4], [5, 6]], [1, 0])
    sent = Errand(prompts, batch, 3, [0.1, 1 / 3], taught)
    got = Errand.from_bytes(sent.to_bytes())
    assert (got.batch, got.count, got.weights) == (batch, 3, [0.1, 1 / 3])
    assert got.taught is not None
    assert (got.taught.prompts, got.taught.terms) == (taught.prompts, taught.terms)
    for one, other in zip([*prompts, *taught.teachers], [*got.prompts, *got.taught.teachers], strict=True):
        assert list(one) == list(other), "gradients have the order of their parts"
        assert all(torch.equal(one[part], other[part]) for part in one)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_processes_that_meet_do_what_one_does_alone(base: BaseModel, workers: int, tmp_path: Path) -> None:
    """Ten records in windows of four: the last has two, which are fewer than there are workers."""
    asked = plan(base, validation=PAIRS[14:], batch_size=4)
    alone = tuned_by(Crew(workers), asked, base)
    with crew_of(base, workers, tmp_path) as (crew, helpers):
        together = tuned_by(crew, asked, base)
    assert set(helpers.sizes) == {workers}
    assert same(together, alone)


def test_one_share_is_one_worker(base: BaseModel) -> None:
    asked = plan(base, validation=PAIRS[14:])
    assert same(tuned_by(Crew(1), asked, base), tune(asked, base))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "residual"])
def test_every_kind_of_training_is_that_of_one_worker(base: BaseModel, kind: str) -> None:
    """In float64: of float32 an optimiser makes more than rounding within a few updates of T5."""
    wide = POOL.get(base.checkpoint, "float64", "cpu")
    with everything_in_float64():
        one, shared = tune(plan_of(wide, kind), wide), tuned_by(Crew(3), plan_of(wide, kind), wide)
    rounding = ROUNDING_OF_ADAFACTOR if kind == "adafactor" else ROUNDING
    for name in ("loss", "validation_loss"):
        assert curve(shared, name) == pytest.approx(curve(one, name), rel=rounding)
    for part, tensor in one.prompt.tensors.items():
        torch.testing.assert_close(shared.prompt.tensors[part], tensor, rtol=0, atol=rounding)


def test_so_is_one_through_a_network(base: BaseModel) -> None:
    """Whose weights are float32: it is the gradient of its prompt that is exchanged."""
    one, shared = tune(plan_of(base, "residual"), base), tuned_by(Crew(3), plan_of(base, "residual"), base)
    assert curve(shared)[:3] == pytest.approx(curve(one)[:3], rel=1e-3)


@pytest.mark.parametrize("early", [True, False], ids=["before its share", "behind its share"])
@pytest.mark.parametrize("returns", [True, False], ids=["who comes back", "who stays away"])
def test_a_worker_that_dies_at_any_update_changes_no_bit(
    base: BaseModel, early: bool, returns: bool, tmp_path: Path
) -> None:
    """Of three; also while it computes losses of validation records."""
    asked = plan(base, validation=PAIRS[14:], batch_size=4)
    alone = tuned_by(Crew(3), asked, base)
    updates = len(curve(alone))
    ends = range(1, updates + 3)
    drawn = random.Random(early).sample(list(ends), 3)
    for number, at in enumerate(ends if WHOLE else sorted(drawn)):
        deaths = {at: 1 + number % 2, at + 2: 1}
        (tmp_path / str(at)).mkdir()
        how = {"early": early, "returns": returns}
        with crew_of(base, 3, tmp_path / str(at), deaths, **how) as (crew, helpers):
            assert same(tuned_by(crew, asked, base), alone)
        assert 2 in helpers.sizes or returns
        assert returns or helpers.sizes[-1] < 3


@pytest.mark.parametrize("kind", ["plain", "search"])
def test_it_goes_on_with_other_workers(llama: BaseModel, kind: str, tmp_path: Path) -> None:
    """From a snapshot: to the same bits where there are as many shares, whoever does them, else but for
    rounding."""
    whole = tuned_by(Crew(2), plan_of(llama, kind), llama)
    end = len(curve(whole)) // 2
    for number in (2, 3):
        directory = tmp_path / str(number)
        snapshots = Interrupting(directory, set(), end, gracefully=True)
        with pytest.raises(TrainingInterrupted):
            tuned_by(Crew(2), plan_of(llama, kind), llama, snapshots.saw, snapshots=snapshots)
        (tmp_path / f"group-{number}").mkdir()
        with crew_of(llama, number, tmp_path / f"group-{number}") as (crew, _):
            went_on = tuned_by(crew, plan_of(llama, kind), llama, snapshots=Snapshots(directory, 1e9))
        if number == 2:
            assert same(went_on, whole)
        assert curve(went_on) == pytest.approx(curve(whole), rel=2e-3)


@pytest.mark.parametrize(
    "kind",
    [{}, {"teacher_epochs": 2, "distillation_weight": 0.5, "state_weight": 0.2}, {"num_ranks": 2}],
    ids=["plain", "taught", "ranks"],
)
def test_a_source_training_is_shared_too(base: BaseModel, kind: dict[str, Any], tmp_path: Path) -> None:
    def trained(crew: Crew | None, base: BaseModel = base) -> TrainedSource:
        return SourceTraining(source_plan(base, resource=True, **kind)).run(lambda _: None, crew=crew)

    wide = POOL.get(base.checkpoint, "float64", "cpu")
    with everything_in_float64():
        one, shared = trained(None, wide), trained(Crew(3), wide)
    for name in ("shared", "columns", "rows"):
        torch.testing.assert_close(
            getattr(shared.source, name), getattr(one.source, name), rtol=0, atol=ROUNDING
        )
    with crew_of(base, 3, tmp_path, {3: 1}) as (crew, _):
        assert same_source(trained(crew), trained(Crew(3)))


def test_who_has_left_is_of_no_use(tmp_path: Path, llama: BaseModel) -> None:
    with crew_of(llama, 2, tmp_path) as (_, helpers):
        group = helpers.group()
        group.leave()
        with pytest.raises(GroupBroken, match="was left"):
            group.tell(b"an errand")


def test_shares_go_round_whoever_is_there() -> None:
    group = Group()
    for size, cut in ((1, [3]), (2, [2, 1]), (3, [1, 1, 1]), (4, [1, 1, 1, 0])):
        group.size, found = size, list[int]()
        for group.rank in range(size):
            found += group.own(3)
            assert len(group.own(3)) == cut[group.rank]
        assert found == [0, 1, 2]
