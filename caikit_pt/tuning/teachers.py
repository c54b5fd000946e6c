"""Teachers of a source training: for each task a plain soft prompt, trained side by side in the same passes.

Each is what `tune` would make of its plan, but for rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.learner import Gradients
from caikit_pt.tuning.losses import Losses, losses
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.tuning import Tuning
from caikit_pt.tuning.whose import whose


@dataclass(frozen=True, slots=True)
class Round:
    """An update of all teachers that were still trained; `loss` is the mean of theirs."""

    number: int
    epoch: int
    loss: float
    learning_rate: float


class Teachers:
    """Those that are trained by `plans`, by the names of their tasks."""

    def __init__(
        self,
        plans: Mapping[str, TuningPlan],
        base: BaseModel,
        on_round: Callable[[Round], None],
        on_validation: Callable[[str, Validated], None],
        losses: Losses = losses,
    ) -> None:
        """`losses`: who computes those of validation records. Raises InvalidRecord as `make_examples`
        does."""
        self._base, self._on_round = base, on_round
        # What isn't told yet, of each.
        self._heard: dict[str, deque[Progress]] = {name: deque() for name in plans}
        self._told = 0
        self._tunings = {
            name: Tuning(plan, base, self._heard[name].append, partial(on_validation, name), losses)
            for name, plan in plans.items()
        }

    @property
    def over(self) -> bool:
        """Whether none is trained any more."""
        return not self._running

    @property
    def at(self) -> int:
        """The round that was begun last."""
        return max(one.at for one in self._tunings.values())

    @property
    def rounds(self) -> int:
        """How many there will be, as far as can be seen."""
        return max(one.at if one.over else one.updates for one in self._tunings.values())

    @property
    def samples(self) -> tuple[int, int]:
        """Examples that were seen, and that will have been in the end."""
        tunings = self._tunings.values()
        seen = sum(one.samples(one.at) for one in tunings)
        return seen, sum(one.samples(one.at if one.over else one.updates) for one in tunings)

    @property
    def tokens(self) -> float:
        """That were seen, of sources and targets."""
        return sum(one.samples(one.at) * one.tokens_a_sample for one in self._tunings.values())

    def begin(self) -> None:
        """From the beginning. What was cut is for whoever has all tasks to tell."""
        for tuning in self._tunings.values():
            tuning.begin(warns=False)

    def update(self, gradients: Gradients) -> None:
        """An update of each that is still trained. Raises TrainingDiverged, with the task."""
        wishes = {name: wish for name, one in self._running.items() if (wish := one.wish())}
        learners = [learner for wish in wishes.values() for learner in wish.learners]
        batches = [batch for wish in wishes.values() for batch in wish.batches]
        losses = gradients(self._base, learners, batches)
        for (name, wish), loss in zip(wishes.items(), losses, strict=True):
            assert len(wish.learners) == 1, "teachers are trained without a search"
            with _of(name):
                self._tunings[name].learn([loss])
                if self._tunings[name].over:
                    self._tunings[name].look()
        self._tell()

    def look(self) -> None:
        """Reads all losses, and tells of them."""
        for name, tuning in self._tunings.items():
            with _of(name):
                tuning.look()
        self._tell()

    def kept(self) -> list[SoftPrompt]:
        """The prompt of each task that is kept at the end."""
        return [tuning.kept() for tuning in self._tunings.values()]

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the plans again. Updates must have been read."""
        return {
            name: {"stopped": tuning.stopped, "training": tuning.state_dict()}
            for name, tuning in self._tunings.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; what was told isn't told again."""
        for name, tuning in self._tunings.items():
            tuning.go_on(state[name]["training"], told=inf)
            tuning.stopped = state[name]["stopped"]
        self._told = self.at

    @property
    def _running(self) -> dict[str, Tuning]:
        return {name: tuning for name, tuning in self._tunings.items() if not tuning.over}

    def _tell(self) -> None:
        """Of the rounds whose losses have been read by all who took part."""
        while part := [self._heard[name] for name, one in self._tunings.items() if one.at > self._told]:
            if not all(part):
                return
            self._told += 1
            of_round = [heard.popleft() for heard in part]
            mean = sum(one.loss for one in of_round) / len(of_round)
            self._on_round(Round(self._told, of_round[0].epoch, mean, of_round[0].learning_rate))


@contextmanager
def _of(name: str) -> Iterator[None]:
    """What a teacher warns of, and that it diverges, is told with its task."""
    try:
        with whose(f"the teacher of task {name}"):
            yield
    except TrainingDiverged as error:
        raise TrainingDiverged(f"The teacher of task {name}: {error}") from error
