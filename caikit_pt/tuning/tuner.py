"""Tunes a soft prompt: plan -> examples -> windows -> updates -> soft prompt and verdict.

Knows nothing of gRPC or caikit. All randomness comes from generators seeded by the plan, so a job has
the same result alone and beside others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning.batches import updates_per_epoch, windows
from caikit_pt.tuning.candidate import Candidate, Point
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.search import candidates, judged_from, rungs, survivors
from caikit_pt.tuning.validation import JUDGED, Validation
from caikit_pt.tuning.verdict import in_words, verdict

_LOG = logging.getLogger(__name__)
# On a GPU, losses are fetched every so many updates: fetching one waits for all that was computed before.
_UPDATES_TO_A_LOOK = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after an update. `loss` is nats a target token."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds: float
    learning_rate: float = 0.0
    validation_loss: float | None = None

    @property
    def eta_seconds(self) -> float:
        """Seconds that the rest takes if it goes on like this."""
        return self.seconds / self.step * (self.steps - self.step)


def tune(
    plan: TuningPlan,
    base: BaseModel,
    on_update: Callable[[Progress], None] | None = None,
    gradients: Gradients = gradients,
) -> TunedPrompt:
    """Trains the soft prompt that `plan` describes in front of the frozen `base`.

    `gradients` computes those of an update; another than the default may do so for several trainings.
    Raises TrainingDiverged where the loss stops being a finite number.
    """
    return _Tuning(plan, base, on_update or (lambda _: None), gradients).run()


class _Tuning:
    """One training while it runs: usually of one candidate, in a search of several."""

    def __init__(
        self,
        plan: TuningPlan,
        base: BaseModel,
        on_update: Callable[[Progress], None],
        gradients: Gradients,
    ) -> None:
        import torch

        self._plan, self._base, self._on_update, self._gradients = plan, base, on_update, gradients
        self._parameters = parameters = plan.parameters
        self._order = torch.Generator().manual_seed(parameters.seed)
        self._examples = make_examples(plan.records, base, parameters)
        self._validation: Validation | None = None
        if plan.validation:
            held_out = make_examples(plan.validation, base, parameters)
            self._validation = Validation(base, plan.validation, held_out, parameters.tuning_task)
        self._steps = parameters.num_epochs * updates_per_epoch(len(self._examples), parameters.window)
        self._candidates = [
            Candidate.begin(base, one, plan.source, self._steps)
            for one in candidates(parameters, plan.limits)
        ]
        self._trials = [candidate.trial for candidate in self._candidates]
        self._rungs = rungs(len(self._candidates), self._steps)
        self._judged_from = judged_from(self._rungs)
        self._worse_in_a_row = 0

    def run(self) -> TunedPrompt:
        """Every window, every rung, every validation; the best prompt with its verdict."""
        for warning in self._examples.warnings:
            _LOG.warning(warning)
        self._started = time.monotonic()
        for step, (epoch, window, ends_epoch) in enumerate(self._windows(), start=1):
            self._make_update(epoch, step, window)
            self._watch(step)
            if self._rungs.get(step, len(self._candidates)) < len(self._candidates):
                self._halve(epoch, step, self._rungs[step])
            self._look(step)
            if self._validates(step, ends_epoch) and self._is_settled(epoch, step):
                break
        self._look(self._steps)
        return self._tuned()

    def _windows(self) -> Iterator[tuple[int, list[int], bool]]:
        """Epoch, window, and whether it is the epoch's last."""
        lengths = None if self._base.trains_packed else self._examples.lengths
        for epoch in range(1, self._parameters.num_epochs + 1):
            cut = list(windows(len(self._examples), self._parameters.window, self._order, lengths))
            for number, window in enumerate(cut, start=1):
                yield epoch, window, number == len(cut)

    def _make_update(self, epoch: int, step: int, window: list[int]) -> None:
        batch = self._examples.batch(window)
        learners = [candidate.learner for candidate in self._candidates]
        losses = self._gradients(self._base, learners, [batch] * len(learners))
        for candidate, loss in zip(self._candidates, losses, strict=True):
            rate = candidate.learner.learning_rate
            candidate.updated(epoch, step, rate, loss, candidate.learner.step(loss))

    def _watch(self, step: int) -> None:
        """Keeps the mean of each prompt on the way to the next rung of a search."""
        if len(self._candidates) > 1:
            for candidate in self._candidates:
                candidate.watch(anew=step in self._judged_from)

    def _look(self, step: int) -> None:
        """Reads the losses now and then, and tells of them; drops what has diverged."""
        if self._base.device.type != "cpu" and step % _UPDATES_TO_A_LOOK and step < self._steps:
            return
        points = {id(candidate): candidate.read() for candidate in self._candidates}
        sound = [candidate for candidate in self._candidates if not candidate.diverged]
        if not sound:
            raise self._candidates[0].diverging()
        self._candidates = sound
        for point in points[id(sound[0])]:
            self._tell(sound[0], point)

    def _tell(self, candidate: Candidate, point: Point) -> None:
        best = candidate.best.loss if candidate.best else None
        seconds = time.monotonic() - self._started
        self._on_update(
            Progress(point.epoch, point.step, self._steps, point.loss, seconds, point.learning_rate, best)
        )

    # ---- validation ----

    def _halve(self, epoch: int, step: int, left: int) -> None:
        """The `left` best candidates on a draw of the validation records go on (`search.survivors`).

        Judged is the mean of each prompt since half-way from the last rung: while learning rates are high
        the prompt itself is restless, and the restless ones are often those that end best.
        """
        assert self._validation is not None, "a plan with a search has validation records"
        means = [candidate.mean().to(self._base.device).tensors for candidate in self._candidates]
        judging = self._validation.draw(JUDGED)
        rows = judging.row_losses(means)
        losses = [judging.loss(row).value for row in rows]
        for candidate, loss in zip(self._candidates, losses, strict=True):
            candidate.trial.losses[step] = loss
            candidate.log("search_loss", epoch, step, loss)
        plain = [number for number, one in enumerate(self._candidates) if one.parameters is self._parameters]
        kept = survivors(rows, losses, left, plain[0] if plain else None)
        best = self._candidates[kept[0]].parameters
        _LOG.info(
            "search after update %d of %d: best of %d is learning_rate %g, %s, %d virtual tokens, loss %.4f",
            step,
            self._steps,
            len(losses),
            best.learning_rate,
            best.prompt_tuning_init_method,
            best.num_virtual_tokens,
            losses[kept[0]],
        )
        self._candidates = [self._candidates[number] for number in kept]

    def _validates(self, step: int, ends_epoch: bool) -> bool:
        """Whether a validation is due. While a search goes on its rungs are the validations."""
        if self._validation is None or len(self._candidates) > 1:
            return False
        every = self._parameters.validation_steps
        return step == self._steps or (step % every == 0 if every else ends_epoch)

    def _is_settled(self, epoch: int, step: int) -> bool:
        """Validates; whether it is time to stop early."""
        assert self._validation is not None
        (candidate,) = self._candidates
        scores = self._validation.scores(candidate.learner.prompt.finished())
        values = {name: estimate.value for name, estimate in scores.metrics.items()}
        values |= {"loss": scores.loss.value, "perplexity": scores.perplexity}
        better = candidate.validated(epoch, step, values)
        self._worse_in_a_row = 0 if better else self._worse_in_a_row + 1
        patience = self._parameters.early_stopping_patience
        return 0 < patience <= self._worse_in_a_row

    # ---- the end ----

    def _tuned(self) -> TunedPrompt:
        checkpoint = self._plan.checkpoint
        (candidate,) = self._candidates[:1]
        found = verdict(candidate, self._base, self._validation, self._trials)
        for line in in_words(found):
            _LOG.info(line)
        return TunedPrompt(
            prompt=candidate.prompt,
            base_model_name=checkpoint.name,
            base_model_fingerprint=checkpoint.fingerprint,
            verbalizer=self._parameters.verbalizer,
            tuning_parameters={
                **candidate.parameters.to_dict(),
                "records": len(self._examples),
                "cut_sources": self._examples.cut_sources,
                "cut_targets": self._examples.cut_targets,
            },
            training_logs=candidate.logs,
            verdict=found,
        )
