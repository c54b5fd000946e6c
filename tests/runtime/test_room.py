"""Prompts in memory: as many as have room, those that were asked last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.runtime import room as room_module
from caikit_pt.runtime.room import BYTES_BESIDE, Room


def prompt(rows: int) -> Any:
    tensors = {"DECODER": torch.zeros(rows, 1024)}
    return SimpleNamespace(tuned=SimpleNamespace(prompt=SimpleNamespace(tensors=tensors)))


def test_what_was_asked_the_longest_ago_leaves() -> None:
    gone: list[str] = []
    room = Room(3 * (BYTES_BESIDE + 4096), gone.append)
    for name in ("one", "two", "three"):
        room.use(name, prompt(1))
    room.use("one", prompt(1))
    assert not gone
    room.use("four", prompt(1))
    assert gone == ["two"]
    # It has room for itself, and for nobody else.
    room.use("large", prompt(100))
    assert gone == ["two", "three", "one", "four"]
    room.use("one", prompt(1))
    assert gone[-1] == "large"


def test_one_that_is_larger_than_all_room_is_served() -> None:
    gone: list[str] = []
    room = Room(1, gone.append)
    room.use("one", prompt(1))
    room.use("one", prompt(1))
    assert not gone
    room.use("two", prompt(1))
    assert gone == ["one"]


def over(base: Any) -> Any:
    return SimpleNamespace(**vars(prompt(1)), base=base)


def test_base_models_leave_only_where_they_free_enough(llama: BaseModel, monkeypatch: Any) -> None:
    """The copies of others stay in memory here, so that none has left."""
    monkeypatch.setattr(room_module, "SECONDS_UNASKED", 0.0)
    gone: list[str] = []
    room = Room(2**30, gone.append)
    room.use("one", over(llama))
    room.use("two", over(llama))
    assert not room.make_room("cpu", llama.weights.bytes + 1)
    assert not room.make_room("cuda:0", 1)
    assert not gone
    assert not room.make_room("cpu", llama.weights.bytes)
    assert gone == ["one", "two"]


def test_one_that_answers_stays(llama: BaseModel, monkeypatch: Any) -> None:
    """However long ago it was asked: an answer may take longer."""
    monkeypatch.setattr(room_module, "SECONDS_UNASKED", 0.0)
    engine = SimpleNamespace(base=llama, busy=True)
    monkeypatch.setattr(room_module, "workers", lambda: [SimpleNamespace(engine=engine)])
    gone: list[str] = []
    room = Room(2**30, gone.append)
    room.use("one", over(llama))
    assert not room.make_room("cpu", 1)
    assert not gone
    engine.busy = False
    assert not room.make_room("cpu", 1)
    assert gone == ["one"]


def test_whoever_was_asked_lately_stays_and_so_do_those_that_are_kept(
    llama: BaseModel, monkeypatch: Any
) -> None:
    gone: list[str] = []
    room = Room(2**30, gone.append)
    room.use("one", over(llama))
    assert not room.make_room("cpu", 1)
    monkeypatch.setattr(room_module, "SECONDS_UNASKED", 0.0)
    kept = Room(2**30, gone.append, [llama.checkpoint.name])
    kept.use("one", over(llama))
    assert not kept.make_room("cpu", 1)
    assert not gone
