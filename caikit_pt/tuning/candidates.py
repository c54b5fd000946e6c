"""The prompts that a training tunes side by side: usually one; in a search several, until one is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.contest import Contest, survivors
from caikit_pt.tuning.curve import Point
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.search import judged_from
from caikit_pt.tuning.walk import Update

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


class Candidates:
    """Those that are still trained of a `contest`."""

    def __init__(self, plan: TuningPlan, base: BaseModel, epochs: Epochs, contest: Contest) -> None:
        self._epochs, self._contest = epochs, contest
        self._left = [
            Candidate.begin(base, one.parameters, plan.source, epochs.updates, one.initial)
            for one in contest.entrants
        ]
        # Of all that began, whatever became of them.
        self._trials = [candidate.trial for candidate in self._left]

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._left)

    @property
    def first(self) -> Candidate:
        """The only one, where no contest goes on."""
        return self._left[0]

    @property
    def told(self) -> dict[str, Any]:
        """Plain values for the verdict: what became of all."""
        return self._contest.told(self._trials, self.first.trial)

    def make(self, update: Update[int], losses: Sequence[torch.Tensor]) -> None:
        """An update of each, by the gradients that it has got with its loss."""
        for candidate, loss in zip(self, losses, strict=True):
            rate = candidate.learner.learning_rate
            candidate.updated(update.epoch, update.step, rate, loss, candidate.learner.step(loss))

    def watch(self, step: int) -> None:
        """Keeps the mean of each prompt on the way to the next rung of a contest, and to the end."""
        last_quarter = self._epochs.last_quarter
        if len(self) > 1 or step >= last_quarter:
            anew = step == last_quarter or step in judged_from(self._contest.rungs)
            for candidate in self:
                candidate.watch(anew)

    def read(self) -> list[Point]:
        """Drops what has diverged; the updates of the first that hasn't, since the last call.

        Raises TrainingDiverged where all have.
        """
        points = {id(candidate): candidate.read() for candidate in self}
        sound = [candidate for candidate in self if not candidate.diverged]
        if not sound:
            raise self.first.diverging()
        self._left = sound
        return points[id(self.first)]

    def halve(self, epoch: int, step: int) -> None:
        """At a rung, those that the contest judges to be the best go on."""
        count = self._contest.rungs.get(step, len(self))
        if count >= len(self):
            return
        rows = self._contest.rows(self._left, step)
        losses = [self._contest.loss(row) for row in rows]
        for candidate, loss in zip(self, losses, strict=True):
            candidate.trial.losses[step] = loss
            candidate.log("search_loss", epoch, step, loss)
        kept = survivors(rows, losses, count, self._favoured, self._contest.errors)
        self._contest.decided(self._left, rows, kept)
        best = self._left[kept[0]].parameters
        _LOG.info(
            "search after update %d of %d: best of %d is learning_rate %g, %s, %d virtual tokens, loss %.4f",
            step,
            self._epochs.updates,
            len(losses),
            best.learning_rate,
            " ".join(filter(None, (best.prompt_tuning_init_method, best.prompt_tuning_init_source_model))),
            best.num_virtual_tokens,
            losses[kept[0]],
        )
        self._left = [self._left[number] for number in kept]

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the plan again. Updates must have been read."""
        return {
            "trials": [trial.losses for trial in self._trials],
            "candidates": {self._trials.index(one.trial): one.state_dict() for one in self},
            "contest": self._contest.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As they were; of the same plan, before the first update."""
        for trial, losses in zip(self._trials, state["trials"], strict=True):
            trial.losses.update(losses)
        self._left = [self._left[number] for number in state["candidates"]]
        for candidate, of_one in zip(self, state["candidates"].values(), strict=True):
            candidate.load_state_dict(of_one)
        # Trainings that were begun by a release without it remember nothing.
        self._contest.load_state_dict(state.get("contest", {}))

    @property
    def _favoured(self) -> int | None:
        """The number of what would be trained without a contest, where it is still there."""
        favoured = self._contest.entrants[0].parameters
        plain = [n for n, one in enumerate(self) if one.parameters is favoured]
        return plain[0] if plain else None
