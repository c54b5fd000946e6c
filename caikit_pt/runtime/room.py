"""The room that prompts in memory have: who was asked the longest ago leaves, at last with its base model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.worker import workers

# Whoever was asked since then stays: base models that are both asked would throw each other out all the time.
SECONDS_UNASKED = 60.0
# What a prompt takes in memory beside its tensors: its module, its configuration, its tokens.
BYTES_BESIDE = 2**14


@dataclass(frozen=True, slots=True)
class _Prompt:
    bytes: int
    # None where another server has its weights.
    base: weakref.ref[BaseModel] | None
    asked: float


class Room:
    """What prompts in memory may take together."""

    def __init__(self, most_bytes: int, forget: Callable[[str], None], kept: Collection[str] = ()) -> None:
        """`forget` is told the names of those that leave; base models whose names are `kept` never do."""
        self._most, self._forget, self._kept = most_bytes, forget, kept
        # Who was asked the longest ago comes first.
        self._prompts: OrderedDict[str, _Prompt] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def use(self, model_id: str, model: Any) -> None:
        """It is asked now; others leave where there is no room for all."""
        prompt = _Prompt(_bytes(model), _base(model), time.monotonic())
        with self._lock:
            # Another one may have been published under its name.
            self._remove(model_id)
            self._prompts[model_id] = prompt
            self._total += prompt.bytes
            gone = []
            while len(self._prompts) > 1 and self._total > self._most:
                gone.append(self._remove(next(iter(self._prompts))))
        for one in gone:
            self._forget(one)

    def make_room(self, device: str, missing_bytes: int) -> bool:
        """Whether a base model has left `device` now, with all its prompts.

        Those leave that nobody has asked for SECONDS_UNASKED, the longest ago first, until `missing_bytes`
        are free; nobody does where that would be too few.
        """
        with self._lock:
            leaving = self._leaving(device, missing_bytes)
            gone = [name for name, prompt in self._prompts.items() if prompt.base in leaving]
            for one in gone:
                self._remove(one)
        for one in gone:
            self._forget(one)
        if any(base() is not None for base in leaving):
            # What holds itself in a circle is let go of when it is looked for.
            gc.collect()
        return any(base() is None for base in leaving)

    def _leaving(self, device: str, missing_bytes: int) -> list[weakref.ref[BaseModel]]:
        busy = {weakref.ref(one.engine.base) for one in workers() if one.engine.busy}
        asked: dict[weakref.ref[BaseModel], float] = {
            one.base: one.asked for one in self._prompts.values() if one.base is not None
        }
        leaving = []
        for reference, moment in sorted(asked.items(), key=lambda one: one[1]):
            base = reference()
            if moment > time.monotonic() - SECONDS_UNASKED or missing_bytes <= 0:
                break
            if base is None or reference in busy or base.checkpoint.name in self._kept:
                continue
            if str(base.weights.device) == device:
                leaving.append(reference)
                missing_bytes -= base.weights.bytes
        return leaving if missing_bytes <= 0 else []

    def _remove(self, model_id: str) -> str:
        prompt = self._prompts.pop(model_id, None)
        self._total -= prompt.bytes if prompt else 0
        return model_id


def _bytes(model: Any) -> int:
    tensors = getattr(model, "tuned", None) and model.tuned.prompt.tensors.values()
    return BYTES_BESIDE + sum(int(one.nbytes) for one in tensors or ())


def _base(model: Any) -> weakref.ref[BaseModel] | None:
    base = getattr(model, "base", None)
    return weakref.ref(base) if isinstance(base, BaseModel) else None
