"""Memory runs out: a training goes on in smaller passes, and a request that has no room harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu.measure import Measure, Part
from bench.gpu.row import Row, judged
from bench.gpu.size import Size

if TYPE_CHECKING:
    from bench.serving.checkpoint import Models
    from bench.serving.load import Load
    from caikit_pt.serving.generation import Generation

PART = "memory"
# Of what is taken where there is enough.
_ROOM = 1 / 3
_SAME = 1e-3  # between gradients, by the length of the difference
_LONG = 1900  # tokens of the request that has no room
_NEW = 16


class Memory:
    """A small model in float32, whose weights are few beside what passes over it take."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def part(self) -> Part:
        """A training and a request."""
        seconds = self._size.seconds(15)
        return Part(
            PART,
            [
                Measure(PART, "an update whose passes have no room", seconds, self._training),
                Measure(PART, "a request that has no room", seconds, self._request),
            ],
        )

    def _training(self) -> Iterator[Row]:
        from bench.gpu.room import limited, watched
        from bench.gpu.updates import Updates
        from bench.training.case import Case
        from bench.training.shapes import SHAPES

        size, base = self._size, self._models.base
        case = Case(SHAPES[size.pressed], batch=size.pressed_records, accumulate=1, device=size.device)
        records, updates = case.records(), Updates(base, case)
        updates.loss(records[:2])  # what is tried once for each model
        roomy = base.training.memory.budget
        with watched(size.device) as taken:
            updates.loss(records)
        expected = updates.gradient
        with limited(size.device, taken.share(_ROOM)):
            updates.loss(records)
        pressed, base.training.memory.budget = base.training.memory.budget, roomy
        apart = float((updates.gradient - expected).norm() / expected.norm())
        found = (
            f"with {_ROOM:.0%} of the memory passes of {pressed.positions:,} positions, "
            f"not {roomy.positions:,}{', layers computed twice' if pressed.recompute else ''}; "
            f"gradients {apart:.0e} apart"
        )
        good = pressed != roomy and apart <= _SAME
        yield judged(
            PART, "an update whose passes have no room", found, "smaller passes, same gradients", good
        )

    def _request(self) -> Iterator[Row]:
        from bench.gpu.room import limited, watched
        from bench.serving.load import Load
        from caikit_pt.errors import OutOfMemory

        device, base = self._size.device, self._models.base
        words = base.weights.model.get_input_embeddings().weight
        small = Load(words, self._size.small_requests, new=_NEW)
        long = replace(small, requests=1, shortest=_LONG, longest=_LONG)
        self._answers([small, long])  # the prompt's keys and values, and what is tried once
        with watched(device) as of_small:
            expected = [one.request.generated for one in self._answers([small])]
        with watched(device) as of_long:
            self._answers([long])
        room = of_small.most + int((of_long.most - of_small.most) * _ROOM)
        with limited(device, room):
            *others, large = self._answers([small, long])
        unharmed = sum(
            one.error is None and one.request.generated == answer
            for one, answer in zip(others, expected, strict=True)
        )
        refused = type(large.error).__name__ if large.error else "answered"
        found = f"{refused}; {unharmed} of {len(others)} others answered as before"
        good = isinstance(large.error, OutOfMemory) and unharmed == len(others)
        yield judged(PART, "a request that has no room", found, "refused, and no other harmed", good)

    def _answers(self, loads: Sequence[Load]) -> list[Generation]:
        """All requests of `loads` at once, answered or failed."""
        from bench.gpu.graphs import engine
        from bench.serving.contenders import requests_of

        base = self._models.base
        requests = [request for load in loads for request in requests_of(base, load)]
        answering = engine(base, len(requests), len(requests), graphs=False)
        generations = [answering.submit(request) for request in requests]
        while answering.busy:
            answering.step()
        return generations

    @cached_property
    def _models(self) -> Models:
        from bench.serving.checkpoint import make_models
        from bench.training.shapes import SHAPES

        folder = Path(self._size.scratch) / PART / self._size.pressed
        return make_models(SHAPES[self._size.pressed], folder, "float32", self._size.device)
