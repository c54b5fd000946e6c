"""The prompts that a training tunes side by side: usually one; in a search several, until one is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.curve import Point
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.search import candidates, judged_from, rungs, survivors
from caikit_pt.tuning.validation import JUDGED, Validation
from caikit_pt.tuning.walk import Update

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


class Candidates:
    """Those that are still trained."""

    def __init__(self, plan: TuningPlan, base: BaseModel, epochs: Epochs) -> None:
        self._plan, self._base, self._epochs = plan, base, epochs
        self._left = [
            Candidate.begin(base, parameters, plan.source, epochs.updates, plan.initial)
            for parameters in candidates(plan.parameters, plan.limits, plan.labels)
        ]
        # Of all that began, whatever became of them.
        self.trials = [candidate.trial for candidate in self._left]

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._left)

    @property
    def first(self) -> Candidate:
        """The only one, where no search goes on."""
        return self._left[0]

    def make(self, update: Update[int], losses: Sequence[torch.Tensor]) -> None:
        """An update of each, by the gradients that it has got with its loss."""
        for candidate, loss in zip(self, losses, strict=True):
            rate = candidate.learner.learning_rate
            candidate.updated(update.epoch, update.step, rate, loss, candidate.learner.step(loss))

    def watch(self, step: int) -> None:
        """Keeps the mean of each prompt on the way to the next rung of a search, and to the end."""
        last_quarter = self._epochs.last_quarter
        if len(self) > 1 or step >= last_quarter:
            anew = step == last_quarter or step in judged_from(self._rungs)
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

    def halve(self, update: Update[int], validation: Validation | None) -> None:
        """At a rung, the best on a draw of the validation records go on (`search.survivors`).

        Judged is the mean of each prompt since half-way from the last rung: while learning rates are high
        the prompt itself is restless, and the restless ones are often those that end best.
        """
        count = self._rungs.get(update.step, len(self))
        if count >= len(self):
            return
        assert validation is not None, "a plan with a search has validation records"
        judging = validation.draw(JUDGED)
        rows = judging.row_losses(
            [candidate.mean().to(self._base.weights.device).tensors for candidate in self]
        )
        losses = [judging.loss(row).value for row in rows]
        for candidate, loss in zip(self, losses, strict=True):
            candidate.trial.losses[update.step] = loss
            candidate.log("search_loss", update.epoch, update.step, loss)
        kept = survivors(rows, losses, count, self._favoured)
        best = self._left[kept[0]].parameters
        _LOG.info(
            "search after update %d of %d: best of %d is learning_rate %g, %s, %d virtual tokens, loss %.4f",
            update.step,
            self._epochs.updates,
            len(losses),
            best.learning_rate,
            best.prompt_tuning_init_method,
            best.num_virtual_tokens,
            losses[kept[0]],
        )
        self._left = [self._left[number] for number in kept]

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the plan again. Updates must have been read."""
        return {
            "trials": [trial.losses for trial in self.trials],
            "candidates": {self.trials.index(one.trial): one.state_dict() for one in self},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As they were; of the same plan, before the first update."""
        for trial, losses in zip(self.trials, state["trials"], strict=True):
            trial.losses.update(losses)
        self._left = [self._left[number] for number in state["candidates"]]
        for candidate, of_one in zip(self, state["candidates"].values(), strict=True):
            candidate.load_state_dict(of_one)

    @property
    def _rungs(self) -> dict[int, int]:
        return rungs(len(self.trials), self._epochs.updates)

    @property
    def _favoured(self) -> int | None:
        """The number of what would be trained without a search, where it is still there."""
        plain = [n for n, one in enumerate(self) if one.parameters is self._plan.parameters]
        return plain[0] if plain else None
