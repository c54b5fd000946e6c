"""Two jobs on one base model: joined in one call, against one call after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.training import models
from bench.training.case import SHORT, Case
from bench.training.product import ProductLoop
from bench.training.records import Record, make_records
from bench.training.rounds import Contender
from bench.training.shapes import SHAPES
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.settings import Settings

_EMBEDDED = Path(__file__).parents[2] / "examples" / "base_models"
_BATCH, _PROMPT, _JOBS = 8, 20, 2
_UPDATES = 6  # of a round


@dataclass(frozen=True, slots=True)
class JoinedJobs:
    """Two prompts in front of one base model, each with a batch of its own for an update."""

    name: str
    base: BaseModel

    def contenders(self) -> list[Contender]:
        """Together, and one after the other."""
        return [
            Contender((self.name, how), make, _UPDATES * _JOBS * _BATCH, self.base.weights.device.type)
            for how, make in (("joined", self._joined), ("in turn", self._in_turn))
        ]

    def _joined(self, number: int) -> Callable[[], object]:
        loop = ProductLoop(self.base, [], _BATCH, _PROMPT, _JOBS)
        updates = self._updates(number)

        def train() -> None:
            for windows in updates:
                loop.update(windows)

        return train

    def _in_turn(self, number: int) -> Callable[[], object]:
        loops = [ProductLoop(self.base, [], _BATCH, _PROMPT) for _ in range(_JOBS)]
        updates = self._updates(number)

        def train() -> None:
            for windows in updates:
                for loop, window in zip(loops, windows, strict=True):
                    loop.update([window])

        return train

    def _updates(self, number: int) -> list[list[list[Record]]]:
        """By update and by job, its window."""
        first = (number + 1) * _UPDATES * _JOBS
        seeds = iter(range(first, first + _UPDATES * _JOBS))
        return [
            [make_records(_BATCH, SHORT, self.base.weights.vocabulary, next(seeds)) for _ in range(_JOBS)]
            for _ in range(_UPDATES)
        ]


def of_shape(name: str, device: str) -> JoinedJobs:
    """With random weights of a shape."""
    return JoinedJobs(name, models.base(Case(SHAPES[name], device=device)))


def embedded(name: str) -> JoinedJobs:
    """With an embedded model."""
    checkpoint = locate(name, Settings(base_models_dir=str(_EMBEDDED)))
    return JoinedJobs(f"{name} (embedded)", POOL.get(checkpoint, "float32", "cpu"))
