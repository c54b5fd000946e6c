"""Which kernel is chosen: the fastest of those tried, once on a processor, by all processes alike."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import caikit
import pytest
import torch

from caikit_pt import settings
from caikit_pt.base_model.layers import fastest, kernels
from caikit_pt.base_model.layers.fastest import ANSWER, BACKWARD, CLASSES, FORWARD, Case, class_of, settle
from caikit_pt.base_model.layers.kernels import ONEDNN, PACKED, TORCH
from caikit_pt.base_model.layers.linear import FrozenLinear, builds_code, bytes_to_pack, pack_linears
from caikit_pt.errors import InvalidParameter

WEIGHT = torch.ones(24, 16)
settings_as_they_are = settings.current


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that remembers; nothing is known yet."""
    monkeypatch.setattr(fastest, "_CHOSEN", {})
    _configure(monkeypatch, cache_dir=str(tmp_path / "cache"), linear_kernel="")
    return tmp_path / "cache" / "kernels.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each kernel takes, as if measured."""
    seconds = {TORCH: 3.0, ONEDNN: 2.0, PACKED: 1.0}
    kind: dict[int, str] = {}
    real = fastest._product

    def product(case: Case, weight: torch.Tensor, kernel: str) -> Any:
        made = real(case, weight, kernel)
        kind[id(made)] = kernel
        return made

    monkeypatch.setattr(fastest, "_product", product)
    monkeypatch.setattr(fastest, "_seconds", lambda made, repeats: seconds[kind[id(made)]] * repeats)
    return seconds


def test_the_fastest_is_chosen(clock: dict[str, float]) -> None:
    assert fastest.fastest(ANSWER, WEIGHT, 3) == PACKED
    assert fastest.fastest(FORWARD, WEIGHT, 3) == ONEDNN, "packed weights aren't there in a training"
    clock[TORCH] = 1.0
    assert fastest.fastest(FORWARD, WEIGHT, 300) == TORCH
    assert fastest.fastest(FORWARD, WEIGHT, 2) == ONEDNN, "one class of rows is tried once"


def test_a_hair_is_not_worth_a_change(clock: dict[str, float]) -> None:
    clock.update({TORCH: 1.01, ONEDNN: 1.0, PACKED: 1.0})
    assert fastest.fastest(ANSWER, WEIGHT, 1) == TORCH


def test_another_process_chooses_alike(clock: dict[str, float], memory: Path) -> None:
    fastest.fastest(BACKWARD, WEIGHT, 5)
    fastest.forget()
    clock[TORCH] = 0.1
    assert fastest.fastest(BACKWARD, WEIGHT, 5) == ONEDNN
    assert fastest.fastest(BACKWARD, WEIGHT, 50) == TORCH, "which nobody has tried"
    known = json.loads(memory.read_text())
    assert list(known.values()) == [{"backward float32 24x16 2": ONEDNN, "backward float32 24x16 32": TORCH}]
    assert fastest.processor() in next(iter(known))


def test_what_another_machine_has_found_is_learnt(clock: dict[str, float], memory: Path) -> None:
    """What is known here stays."""
    fastest.fastest(BACKWARD, WEIGHT, 5)
    ((here, known),) = json.loads(memory.read_bytes()).items()
    found = {here: {**dict.fromkeys(known, TORCH), "more": TORCH}, "elsewhere": {"a": ONEDNN}}
    fastest.learn(memory, json.dumps(found).encode())
    fastest.learn(memory, b"spoiled")
    assert json.loads(memory.read_bytes()) == {here: {**known, "more": TORCH}, "elsewhere": {"a": ONEDNN}}
    fresh = memory.parent / "new" / memory.name
    fastest.learn(fresh, memory.read_bytes())
    assert fresh.read_bytes() == memory.read_bytes()


@pytest.mark.parametrize("spoiled", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_spoiled_memory_is_made_anew(clock: dict[str, float], memory: Path, spoiled: bytes) -> None:
    memory.parent.mkdir()
    memory.write_bytes(spoiled)
    assert fastest.fastest(FORWARD, WEIGHT, 1) == ONEDNN
    assert json.loads(memory.read_text())


def test_a_kernel_that_is_no_longer_there_is_tried_anew(clock: dict[str, float], memory: Path) -> None:
    fastest.fastest(FORWARD, WEIGHT, 1)
    memory.write_text(memory.read_text().replace(ONEDNN, "of-old"))
    fastest.forget()
    assert fastest.fastest(FORWARD, WEIGHT, 1) == ONEDNN
    assert "of-old" not in memory.read_text()


def test_without_a_place_for_it_each_process_tries(
    clock: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    _configure(monkeypatch, cache_dir=str(tmp_path / "file" / "below"))
    assert [fastest.fastest(FORWARD, WEIGHT, rows) for rows in (1, 100)] == [ONEDNN] * 2
    assert caplog.text.count("each process tries its kernels anew") == 1


def test_in_one_process_a_choice_stays(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads try at once where there is no place to remember: else one would change its kernel."""
    real = fastest.trial

    def meanwhile(case: Case, weight: torch.Tensor) -> str:
        fastest._CHOSEN.setdefault(case, TORCH)
        return real(case, weight)

    monkeypatch.setattr(fastest, "trial", meanwhile)
    assert fastest.fastest(FORWARD, WEIGHT, 1) == TORCH


@pytest.mark.parametrize(("setting", "chosen"), [("torch", TORCH), ("onednn", PACKED)])
def test_the_setting_wins(setting: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _configure(monkeypatch, linear_kernel=setting)
    assert fastest.fastest(ANSWER, WEIGHT, 1) == chosen


def test_a_setting_that_is_none_is_refused() -> None:
    real = caikit.get_config().linear_kernel
    caikit.configure(config_dict={"linear_kernel": "mkl"})
    try:
        with pytest.raises(InvalidParameter, match=r"linear_kernel.*mkl.*torch, onednn"):
            settings_as_they_are()
    finally:
        caikit.configure(config_dict={"linear_kernel": real})


def test_the_log_says_what_was_chosen(clock: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settle([WEIGHT, torch.ones(8, 8)], (FORWARD, ANSWER), "some-model")
    assert (
        f"Products of some-model on {fastest.processor()}: forward onednn 2; answer packed 2" in caplog.text
    )


def test_the_log_tells_classes_of_rows_apart(
    clock: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fastest.fastest(FORWARD, WEIGHT, 1)
    clock[TORCH] = 0.1
    settle([WEIGHT], (FORWARD,), "some-model")
    assert "forward onednn 1 (1-1 rows), torch 1 (2- rows)" in caplog.text


def test_memory_is_spent_on_packed_weights_only_where_they_pay(clock: dict[str, float]) -> None:
    layer = FrozenLinear(16, 24, bias=False).requires_grad_(False)
    clock[PACKED] = 5.0
    assert bytes_to_pack(layer, "some") == 0
    pack_linears(layer)
    assert layer.packed is None


def test_rows_are_rounded_where_building_code_takes_long() -> None:
    layer = FrozenLinear(16, 24, bias=False).requires_grad_(False)
    assert not builds_code(layer)
    assert builds_code(layer.bfloat16())


def test_a_real_trial_is_right_whatever_it_chooses() -> None:
    if not kernels.onednn_is_right(torch.float32):
        pytest.skip("torch has no oneDNN that is right here")
    layer = FrozenLinear(16, 24).requires_grad_(False)
    exact = torch.nn.Linear(16, 24).double()
    exact.load_state_dict(layer.state_dict())
    for rows in (1, 5, 20, 70, 200):
        x = torch.randn(rows, 16, requires_grad=True)
        layer(x).sum().backward()
        wide = x.detach().double().requires_grad_()
        exact(wide).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)


def test_classes_of_rows() -> None:
    assert [class_of(rows) for rows in (1, 2, 7, 8, 31, 32, 127, 128, 10_000)] == [
        1,
        2,
        2,
        8,
        8,
        32,
        32,
        128,
        128,
    ]
    assert all(class_of(rows) == first for first, rows in CLASSES.items())


def _configure(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    changed = replace(settings.current(), **changes)
    monkeypatch.setattr(settings, "current", lambda: changed)
