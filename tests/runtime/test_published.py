"""Prompts in memory: as many as have room, those that were asked last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from caikit_pt.runtime.published import _BYTES_BESIDE, _Room


def prompt(rows: int) -> Any:
    tensors = {"DECODER": torch.zeros(rows, 1024)}
    return SimpleNamespace(tuned=SimpleNamespace(prompt=SimpleNamespace(tensors=tensors)))


def test_what_was_asked_the_longest_ago_leaves() -> None:
    gone: list[str] = []
    room = _Room(3 * (_BYTES_BESIDE + 4096), gone.append)
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
    room = _Room(1, gone.append)
    room.use("one", prompt(1))
    room.use("one", prompt(1))
    assert not gone
    room.use("two", prompt(1))
    assert gone == ["one"]
