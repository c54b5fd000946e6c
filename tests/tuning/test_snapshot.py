"""A training that was interrupted ends as one that wasn't, bit for bit."""

from __future__ import annotations

import errno
import json
import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots, flattened, restored
from caikit_pt.tuning.tuner import tune
from tests.tuning.training import PAIRS, curve, plan
from tests.whole import WHOLE

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"num_epochs": 3},
    "multitask": {"tuning_type": "MULTITASK_PROMPT_TUNING", "num_epochs": 3},
    "residual": {"reparameterization": "residual", "num_epochs": 3, "warmup_ratio": 0.3},
    "adafactor": {"optimizer": "adafactor", "num_epochs": 3, "max_grad_norm": 1.0},
    "search": {"search": "auto", "num_epochs": 8, "batch_size": 5},
    "early": {"early_stopping_patience": 2, "num_epochs": 12, "learning_rate": 3.0, "validation_steps": 1},
}


def plan_of(base: BaseModel, kind: str) -> TuningPlan:
    validation = None if kind in ("plain", "adafactor") else PAIRS[14:]
    return plan(base, PAIRS[:12], validation, **KINDS[kind])


class Interrupting(Snapshots):
    """Keeps a snapshot at each of `kept`, and is interrupted at `end`, with a last snapshot or without."""

    def __init__(self, directory: Path, kept: set[int], end: int, gracefully: bool) -> None:
        super().__init__(directory, math.inf)
        self.kept, self.end, self.gracefully, self.step = kept, end, gracefully, 0

    def saw(self, progress: Progress) -> None:
        self.step = progress.step
        if progress.step == self.end and self.gracefully:
            self.stop.set()

    @property
    def due(self) -> bool:
        if self.step == self.end and not self.gracefully:
            raise KeyboardInterrupt
        return self.step in self.kept or super().due


def same(one: TunedPrompt, other: TunedPrompt) -> bool:
    equal = all(
        torch.equal(tensor, other.prompt.tensors[part]) for part, tensor in one.prompt.tensors.items()
    )
    names = {entry["name"] for entry in one.training_logs}
    curves = all(curve(one, name) == curve(other, name) for name in names)
    return (
        equal
        and curves
        and one.verdict == other.verdict
        and len(one.training_logs) == len(other.training_logs)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_anywhere(base: BaseModel, kind: str, tmp_path: Path) -> None:
    whole = tune(plan_of(base, kind), base)
    updates = len(curve(whole))
    rng = random.Random(kind)
    ends = sorted({1, updates - 1, rng.randrange(1, updates), rng.randrange(1, updates)})
    for number, end in enumerate(ends if WHOLE else ends[1:3]):
        gracefully = number % 2 == 0
        kept = {step for step in range(1, end) if rng.random() < 0.5}
        snapshots = Interrupting(tmp_path / str(number), kept, end, gracefully)
        with pytest.raises(TrainingInterrupted if gracefully else KeyboardInterrupt):
            tune(plan_of(base, kind), base, snapshots.saw, snapshots=snapshots)
        assert same(tune(plan_of(base, kind), base, snapshots=Snapshots(tmp_path / str(number), 1e9)), whole)


@pytest.mark.parametrize("kind", ["plain", "search"])
def test_it_goes_on_again_and_again(base: BaseModel, kind: str, tmp_path: Path) -> None:
    """Interrupted at every update, each time by another one."""
    whole = tune(plan_of(base, kind), base)
    ended = 0
    while True:
        snapshots = Interrupting(tmp_path, set(), ended + 1, gracefully=True)
        try:
            tuned = tune(plan_of(base, kind), base, snapshots.saw, snapshots=snapshots)
        except TrainingInterrupted:
            ended += 1
            continue
        break
    assert ended >= len(curve(whole)) - 1
    assert same(tuned, whole)


def test_it_goes_on_with_a_base_model_that_was_loaded_anew(llama: BaseModel, tmp_path: Path) -> None:
    whole = tune(plan_of(llama, "plain"), llama)
    snapshots = Interrupting(tmp_path, set(), 4, gracefully=True)
    with pytest.raises(TrainingInterrupted):
        tune(plan_of(llama, "plain"), llama, snapshots.saw, snapshots=snapshots)
    again = load(llama.checkpoint, "float32", "cpu")
    assert same(tune(plan_of(again, "plain"), again, snapshots=Snapshots(tmp_path, 1e9)), whole)


def test_the_time_that_was_spent_counts(llama: BaseModel, tmp_path: Path) -> None:
    seen: list[Progress] = []
    snapshots = Interrupting(tmp_path, set(), 3, gracefully=True)

    def see(progress: Progress) -> None:
        seen.append(progress)
        snapshots.saw(progress)

    with pytest.raises(TrainingInterrupted, match="at update 3 of 9"):
        tune(plan_of(llama, "plain"), llama, see, snapshots=snapshots)
    spent = seen[-1].seconds
    after: list[Progress] = []
    tune(plan_of(llama, "plain"), llama, after.append, snapshots=Snapshots(tmp_path, 1e9))
    assert [one.step for one in after] == [4, 5, 6, 7, 8, 9]
    assert after[0].seconds > spent
    assert after[-1].samples == 3 * 12


def test_what_nobody_has_heard_of_is_told_again(llama: BaseModel, tmp_path: Path) -> None:
    """Reports since the update 2 were lost."""
    updates: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    exams: dict[bool, list[Validated]] = {True: [], False: []}
    wanted = plan(llama, PAIRS[:12], PAIRS[14:], num_epochs=3, validation_steps=1)
    snapshots = Interrupting(tmp_path, set(), 5, gracefully=True)

    def see(progress: Progress) -> None:
        updates[again].append((progress.step, progress.loss))
        if not again:
            snapshots.saw(progress)

    again = False
    with pytest.raises(TrainingInterrupted, match="at update 5 of 9"):
        tune(wanted, llama, see, snapshots=snapshots, on_validation=exams[again].append)
    again = True
    told = Snapshots(tmp_path, 1e9, told=2)
    tune(wanted, llama, see, snapshots=told, on_validation=exams[again].append)
    assert [step for step, _ in updates[again]] == [3, 4, 5, 6, 7, 8, 9]
    assert updates[again][:3] == updates[False][2:]
    assert [one.step for one in exams[again]] == [3, 4, 5, 6, 7, 8, 9]
    assert exams[again][:3] == exams[False][2:]


# ---- files ----


def states(directory: Path) -> Snapshots:
    snapshots = Snapshots(directory, 0.0)
    for step in (1, 2, 3):
        snapshots.keep(step, {"step": step, "weights": torch.full((3,), float(step))})
    return snapshots


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert states(tmp_path).newest()["step"] == 3
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"00000000{step}.{end}" for step in (2, 3) for end in ("json", "safetensors")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "manifest", "gone", "version"])
def test_a_torn_one_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    snapshots = states(tmp_path)
    data, manifest = tmp_path / "000000003.safetensors", tmp_path / "000000003.json"
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-1] ^= 1
        data.write_bytes(content)
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "manifest":
        manifest.write_text('{"format_')
    elif damage == "gone":
        data.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    assert snapshots.newest()["step"] == 2
    assert "000000003 is passed over" in caplog.text
    snapshots.keep(4, {"step": 4})
    assert snapshots.newest()["step"] == 4


def test_without_a_manifest_there_is_none(tmp_path: Path) -> None:
    snapshots = states(tmp_path)
    for manifest in tmp_path.glob("*.json"):
        manifest.unlink()
    assert snapshots.newest() is None
    assert Snapshots(tmp_path / "nowhere", 1.0).newest() is None


def test_a_full_disk_costs_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = states(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    snapshots.keep(4, {"step": 4})
    assert "no snapshot could be kept at update 4: No space left on device" in caplog.text
    assert snapshots.newest()["step"] == 3
    assert not list(tmp_path.glob("*.new"))


def test_they_are_due_by_the_clock_or_when_somebody_wants_one(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, 1e9)
    before = snapshots.due
    snapshots.stop.set()
    assert (before, snapshots.due) == (False, True)
    assert Snapshots(tmp_path, 0.0).due


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner) | st.lists(inner).map(tuple)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_flattened_is_restored(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(flattened(value, tensors)))
    assert restored(plain, tensors) == value


def test_tensors_keep_their_types_and_shapes(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state: Mapping[str, Any] = {
        "state": {0: {"step": torch.tensor(3.0), "moments": shared.T}},
        "generator": torch.Generator().manual_seed(3).get_state(),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "again": shared,
        "loss": math.nan,
    }
    snapshots = Snapshots(tmp_path, 0.0)
    snapshots.keep(1, state)
    found = snapshots.newest()
    assert math.isnan(found["loss"])
    assert torch.equal(found["state"][0]["moments"], shared.T)
    assert torch.equal(found["state"][0]["step"], torch.tensor(3.0))
    for name in ("generator", "half", "again"):
        assert torch.equal(found[name], state[name])
        assert found[name].dtype == state[name].dtype
