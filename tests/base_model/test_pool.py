"""One frozen copy for all who need it, gone when nobody does."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from caikit_pt.base_model import pool as pool_module
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.loading.device import resolve_device, resolve_dtype
from caikit_pt.base_model.pool import BaseModelPool
from caikit_pt.base_model.trials import training as trials
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from tests.conftest import LLAMA, SETTINGS, T5


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the base models that were really loaded."""
    names: list[str] = []
    real = pool_module.load

    def counting(checkpoint: Any, dtype: str, device: str) -> Any:
        names.append(checkpoint.name)
        return real(checkpoint, dtype, device)

    monkeypatch.setattr(pool_module, "load", counting)
    return names


def test_cold_loads_at_the_same_time_make_one_copy(loads: list[str]) -> None:
    pool = BaseModelPool()
    checkpoint = locate(T5, SETTINGS)
    with ThreadPoolExecutor(6) as threads:
        models = list(threads.map(lambda _: pool.get(checkpoint, "float32", "cpu"), range(6)))
    assert len({id(model) for model in models}) == len(pool) == len(loads) == 1


def test_another_type_or_model_is_another_copy(loads: list[str]) -> None:
    pool = BaseModelPool()
    held = [
        pool.get(locate(name, SETTINGS), dtype, "cpu")
        for name, dtype in ((T5, "float32"), (T5, "bfloat16"), (LLAMA, "float32"), (T5, "float32"))
    ]
    assert len(pool) == 3
    assert [str(model.weights.dtype) for model in held[:2]] == ["torch.float32", "torch.bfloat16"]
    assert loads == [T5, T5, LLAMA]


def test_a_copy_that_nobody_holds_is_freed() -> None:
    pool = BaseModelPool()
    model: Any = pool.get(locate(T5, SETTINGS), "float32", "cpu")
    assert len(pool) == 1
    del model
    gc.collect()
    assert len(pool) == 0


def test_the_weights_are_frozen() -> None:
    model = BaseModelPool().get(locate(LLAMA, SETTINGS), "float32", "cpu").weights.model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_devices() -> None:
    assert resolve_device("cpu", Settings(device="cuda")) == "cpu"
    assert resolve_device("", Settings(device="cpu")) == "cpu"
    with pytest.raises(InvalidParameter, match="cpu"):
        resolve_device("cuda:99", Settings())


def test_data_types() -> None:
    checkpoint = locate(LLAMA, SETTINGS)
    assert resolve_dtype("", checkpoint, "cpu", Settings()) == "float32"
    assert resolve_dtype("", checkpoint, "cuda:0", Settings()) == "float16"
    assert resolve_dtype("", checkpoint, "cuda:0", Settings(torch_dtype="bfloat16")) == "bfloat16"
    assert resolve_dtype("float32", checkpoint, "cuda:0", Settings(torch_dtype="bfloat16")) == "float32"


def test_a_step_of_training_is_tried_once(loads: list[str]) -> None:
    pool = BaseModelPool()
    for checkpoint in (locate(T5, SETTINGS), locate(T5, SETTINGS)):
        pool.check_training(checkpoint, ["ENCODER"], "float32", "cpu")
    assert loads == [T5]
    assert len(pool) == 0, "nobody needs the copy any longer"
    pool.check_training(locate(T5, SETTINGS), ["DECODER"], "float32", "cpu")
    assert loads == [T5, T5]


def test_a_copy_is_held_while_it_is_tried(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever asks meanwhile would load it again."""
    pool, held = BaseModelPool(), []
    monkeypatch.setattr(trials, "check_training", lambda *_: held.append(len(pool)))
    pool.check_training(locate(T5, SETTINGS), ["ENCODER"], "float32", "cpu")
    assert held == [1]


def test_a_copy_that_somebody_holds_is_tried(loads: list[str]) -> None:
    pool = BaseModelPool()
    held = pool.get(locate(T5, SETTINGS), "float32", "cpu")
    pool.check_training(held.checkpoint, ["ENCODER"], "float32", "cpu")
    assert loads == [T5]


def test_what_would_fill_the_memory_is_left_to_the_training(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "free_memory_of", lambda device: 1_000_000)
    BaseModelPool().check_training(locate(T5, SETTINGS), ["ENCODER"], "float32", "cpu")
    assert loads == []


def test_what_has_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise InvalidParameter("base_model", T5, "others")

    pool, checkpoint = BaseModelPool(), locate(T5, SETTINGS)
    with monkeypatch.context() as patched:
        patched.setattr(trials, "check_training", fail)
        with pytest.raises(InvalidParameter):
            pool.check_training(checkpoint, ["ENCODER"], "float32", "cpu")
    pool.check_training(checkpoint, ["ENCODER"], "float32", "cpu")
