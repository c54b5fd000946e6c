"""When a training is validated, what is told of it, and when it may stop early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.candidates import Candidates
from caikit_pt.tuning.validation import Validation
from caikit_pt.tuning.walk import Update


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation found: `scores` by name (loss, perplexity, metrics); whether it is the `best` yet.
    Loss and perplexity are those of all `records`, metrics those of so many `answers`."""

    epoch: int
    step: int
    scores: Mapping[str, float]
    best: bool
    answers: int = 0
    records: int = 0


class Exams:
    """The validations of one training on `validation`, without which there are none."""

    def __init__(
        self,
        validation: Validation | None,
        parameters: TuningParameters,
        updates: int,
        on_validation: Callable[[Validated], None],
    ) -> None:
        self._validation, self._parameters, self._updates = validation, parameters, updates
        self._on_validation = on_validation

    def begin(self, candidates: Candidates) -> None:
        """A tuned prompt that all candidates start from is the first that may be the best, so that none of
        them ends worse than it began."""
        if self._validation is None:
            return
        values = scores_of(self._validation, candidates.first.learner.prompt.finished())
        for candidate in candidates:
            candidate.validated(0, 0, values)
        self._tell(0, 0, values, best=True)

    def tell_again(self, candidate: Candidate, first: float) -> None:
        """The validations that `candidate` has behind it, of updates behind `first`."""
        lowest = math.inf
        for (epoch, step), scores in candidate.validations.items():
            better = scores["loss"] < lowest
            lowest = min(lowest, scores["loss"])
            if step > first:
                self._tell(epoch, step, scores, better)

    def settle(self, candidates: Candidates, update: Update[int]) -> bool:
        """Validates where it is time to; whether the training may stop.

        While a search goes on its rungs are the validations.
        """
        due = is_due(self._parameters, update.step, update.ends_epoch, self._updates)
        if self._validation is None or len(candidates) > 1 or not due:
            return False
        candidate = candidates.first
        values = scores_of(self._validation, candidate.learner.prompt.finished())
        better = candidate.validated(update.epoch, update.step, values)
        self._tell(update.epoch, update.step, values, better)
        patience = self._parameters.early_stopping_patience
        return 0 < patience <= candidate.validations_since_best

    def _tell(self, epoch: int, step: int, scores: Mapping[str, float], best: bool) -> None:
        assert self._validation is not None, "whoever tells has looked"
        answers, records = self._validation.watched, len(self._validation)
        self._on_validation(Validated(epoch, step, scores, best, answers, records))


def is_due(parameters: TuningParameters, step: int, ends_epoch: bool, updates: int) -> bool:
    """Whether it is time for a validation after update `step` of `updates`."""
    every = parameters.validation_steps
    return step == updates or (step % every == 0 if every else ends_epoch)


def scores_of(validation: Validation, prompt: SoftPrompt) -> dict[str, float]:
    """Loss, perplexity and the task's metrics of `prompt`, by name."""
    scores = validation.scores(prompt)
    values = {name: estimate.value for name, estimate in scores.metrics.items()}
    return {**values, "loss": scores.loss.value, "perplexity": scores.perplexity}
