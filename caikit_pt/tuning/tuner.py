"""Tunes a soft prompt: plan -> examples -> windows -> updates -> soft prompt and verdict.

Knows nothing of gRPC or caikit. All randomness comes from generators seeded by the plan, so a job has
the same result alone and beside others.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt import ending
from caikit_pt.base_model.denormals import no_denormals
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initial import FIELD
from caikit_pt.tuning.batches import updates_per_epoch, windows
from caikit_pt.tuning.candidate import Candidate, Point
from caikit_pt.tuning.course import DIVERGED, FLAT, SETTLED, course
from caikit_pt.tuning.estimate import sign_test
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.search import candidates, judged_from, rungs, survivors
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.validation import JUDGED, Validation
from caikit_pt.tuning.verdict import sentences, verdict

_LOG = logging.getLogger(__name__)
# On a GPU, losses are fetched every so many updates: fetching one waits for all that was computed before.
_UPDATES_TO_A_LOOK = 10
_LOOKS_AT_THE_COURSE = 10
_FEWEST_TO_BE_FLAT = 20  # updates
_CHANCE = 0.01  # the probability of a difference that is taken for chance, at least
_DOUBTS = {FLAT: "the loss is flat", DIVERGED: "the loss is diverging"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after an update. `loss` is nats a target token."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds: float
    learning_rate: float = 0.0
    validation_loss: float | None = None  # the best so far
    samples: int = 0  # so far
    tokens: int = 0  # so far, of sources and targets

    @property
    def eta_seconds(self) -> float:
        """Seconds that the rest takes if it goes on like this."""
        return self.seconds / self.step * (self.steps - self.step)


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation found: `scores` by name (loss, perplexity, metrics); whether it is the `best` yet."""

    epoch: int
    step: int
    scores: Mapping[str, float]
    best: bool


def tune(
    plan: TuningPlan,
    base: BaseModel,
    on_update: Callable[[Progress], None] | None = None,
    gradients: Gradients = gradients,
    snapshots: Snapshots | None = None,
    on_validation: Callable[[Validated], None] | None = None,
) -> TunedPrompt:
    """Trains the soft prompt that `plan` describes in front of the frozen `base`.

    `gradients` computes those of an update; another than the default may do so for several trainings.
    With `snapshots` it goes on from the newest, if there is one, and keeps more; on the CPU it ends with the
    same bits as if it had never been interrupted. Raises TrainingDiverged where the loss stops being a finite
    number, TrainingInterrupted where `snapshots.stop` is set or the process ends, InvalidParameter where
    `base` can't be trained.
    """

    def ignore(_: object) -> None: ...

    with ending.waits_for_this(), no_denormals():
        base.check_training(plan.parameters.output_model_types)
        tuning = _Tuning(plan, base, on_update or ignore, on_validation or ignore, gradients)
        return tuning.run(snapshots)


class _Tuning:
    """One training while it runs: usually of one candidate, in a search of several."""

    def __init__(
        self,
        plan: TuningPlan,
        base: BaseModel,
        on_update: Callable[[Progress], None],
        on_validation: Callable[[Validated], None],
        gradients: Gradients,
    ) -> None:
        import torch

        self._plan, self._base, self._gradients = plan, base, gradients
        self._on_update, self._on_validation = on_update, on_validation
        self._parameters = parameters = plan.parameters
        self._order = torch.Generator().manual_seed(parameters.seed)
        self._examples = make_examples(plan.records, base, parameters)
        self._tokens_a_sample = sum(self._examples.lengths) / len(self._examples)
        self._validation: Validation | None = None
        if plan.validation:
            held_out = make_examples(plan.validation, base, parameters)
            self._validation = Validation(
                base, plan.validation, held_out, parameters.tuning_task, plan.answer_labels(base)
            )
        self._steps = parameters.num_epochs * updates_per_epoch(len(self._examples), parameters.window)
        self._candidates = [
            Candidate.begin(base, one, plan.source, self._steps, plan.initial)
            for one in candidates(parameters, plan.limits, plan.labels)
        ]
        self._trials = [candidate.trial for candidate in self._candidates]
        self._rungs = rungs(len(self._candidates), self._steps)
        self._judged_from = judged_from(self._rungs)
        self._last_quarter = self._steps - self._steps // 4 + 1  # its first update
        self._worse_in_a_row = 0
        self._done = 0  # updates
        self._epoch_began = self._order.get_state()
        self._doubts: set[str] = set()

    def run(self, snapshots: Snapshots | None) -> TunedPrompt:
        """Every window, every rung, every validation; the best prompt with its verdict."""
        self._started = time.monotonic()
        state = snapshots and snapshots.newest()
        if state:
            self._load_state_dict(state)
            _LOG.info("the training goes on from update %d of %d", self._done, self._steps)
        else:
            for warning in self._examples.warnings:
                _LOG.warning(warning)
            if self._plan.initial:
                self._validate_start()
        for step, epoch, window, ends_epoch in self._windows():
            if ending.is_near():
                raise TrainingInterrupted("The training was stopped: its process is ending.")
            self._make_update(epoch, step, window)
            self._watch(step)
            if self._rungs.get(step, len(self._candidates)) < len(self._candidates):
                self._halve(epoch, step, self._rungs[step])
            self._look(step)
            self._doubt(step)
            self._done = step
            if self._validates(step, ends_epoch) and self._is_settled(epoch, step):
                break
            if snapshots and snapshots.due:
                self._keep(snapshots)
        self._look(self._steps)
        self._choose()
        return self._tuned()

    def _windows(self) -> Iterator[tuple[int, int, list[int], bool]]:
        """Update, epoch, window, and whether it is the epoch's last; those that are not done yet."""
        lengths = None if self._base.trains_packed else self._examples.lengths
        per_epoch = updates_per_epoch(len(self._examples), self._parameters.window)
        for epoch in range(self._done // per_epoch + 1, self._parameters.num_epochs + 1):
            self._epoch_began = self._order.get_state()
            cut = windows(len(self._examples), self._parameters.window, self._order, lengths)
            for number, window in enumerate(list(cut), start=1):
                step = (epoch - 1) * per_epoch + number
                if step > self._done:
                    yield step, epoch, window, number == per_epoch

    # ---- snapshots ----

    def _keep(self, snapshots: Snapshots) -> None:
        """Raises TrainingInterrupted where nobody wants the training to go on now."""
        self._look(self._steps)
        snapshots.keep(self._done, self._state_dict())
        if snapshots.stop.is_set():
            raise TrainingInterrupted(f"The training was stopped at update {self._done} of {self._steps}.")

    def _state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on. What plan and seeds make again isn't in it."""
        per_epoch = updates_per_epoch(len(self._examples), self._parameters.window)
        ended = self._done % per_epoch == 0
        return {
            "done": self._done,
            "seconds": time.monotonic() - self._started,
            # Where the epoch at hand, or the next, began to draw.
            "order": self._order.get_state() if ended else self._epoch_began,
            "worse_in_a_row": self._worse_in_a_row,
            "trials": [trial.losses for trial in self._trials],
            "candidates": {
                self._trials.index(candidate.trial): candidate.state_dict() for candidate in self._candidates
            },
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._done = state["done"]
        self._started -= state["seconds"]
        self._order.set_state(state["order"])
        self._worse_in_a_row = state["worse_in_a_row"]
        for trial, losses in zip(self._trials, state["trials"], strict=True):
            trial.losses.update(losses)
        begun = self._candidates
        self._candidates = [begun[number] for number in state["candidates"]]
        for candidate, of_one in zip(self._candidates, state["candidates"].values(), strict=True):
            candidate.load_state_dict(of_one)

    # ---- updates ----

    def _make_update(self, epoch: int, step: int, window: list[int]) -> None:
        batch = self._examples.batch(window)
        learners = [candidate.learner for candidate in self._candidates]
        losses = self._gradients(self._base, learners, [batch] * len(learners))
        for candidate, loss in zip(self._candidates, losses, strict=True):
            rate = candidate.learner.learning_rate
            candidate.updated(epoch, step, rate, loss, candidate.learner.step(loss))

    def _watch(self, step: int) -> None:
        """Keeps the mean of each prompt on the way to the next rung of a search, and to the end."""
        if len(self._candidates) > 1 or step >= self._last_quarter:
            for candidate in self._candidates:
                candidate.watch(anew=step in self._judged_from or step == self._last_quarter)

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
        per_epoch = updates_per_epoch(len(self._examples), self._parameters.window)
        whole, begun = divmod(point.step, per_epoch)
        samples = whole * len(self._examples) + begun * self._parameters.window
        self._on_update(
            Progress(
                epoch=point.epoch,
                step=point.step,
                steps=self._steps,
                loss=point.loss,
                seconds=time.monotonic() - self._started,
                learning_rate=point.learning_rate,
                validation_loss=best,
                samples=samples,
                tokens=round(samples * self._tokens_a_sample),
            )
        )

    def _doubt(self, step: int) -> None:
        """Warns once where the loss doesn't fall, or rises; looked at ten times in a training."""
        if (
            len(self._candidates) > 1
            or step % max(1, self._steps // _LOOKS_AT_THE_COURSE)
            or step == self._steps
        ):
            return
        (candidate,) = self._candidates
        found = course([point.loss for point in candidate.curve]) if candidate.curve else SETTLED
        is_early = step < max(self._steps / 4, _FEWEST_TO_BE_FLAT)
        if found in _DOUBTS and found not in self._doubts and not (found == FLAT and is_early):
            self._doubts.add(found)
            _LOG.warning("%s at update %d of %d", _DOUBTS[found], step, self._steps)

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

    def _validate_start(self) -> None:
        """A tuned prompt that all candidates start from is the first that may be the best, so that none of
        them ends worse than it began."""
        if self._validation is None:
            return
        values = self._scores(self._candidates[0])
        for candidate in self._candidates:
            candidate.validated(0, 0, values)
        self._on_validation(Validated(0, 0, values, best=True))

    def _scores(self, candidate: Candidate) -> dict[str, float]:
        assert self._validation is not None
        scores = self._validation.scores(candidate.learner.prompt.finished())
        values = {name: estimate.value for name, estimate in scores.metrics.items()}
        return {**values, "loss": scores.loss.value, "perplexity": scores.perplexity}

    def _is_settled(self, epoch: int, step: int) -> bool:
        """Validates; whether it is time to stop early."""
        (candidate,) = self._candidates
        values = self._scores(candidate)
        better = candidate.validated(epoch, step, values)
        self._on_validation(Validated(epoch, step, values, better))
        self._worse_in_a_row = 0 if better else self._worse_in_a_row + 1
        patience = self._parameters.early_stopping_patience
        return 0 < patience <= self._worse_in_a_row

    # ---- the end ----

    def _choose(self) -> None:
        """Of labels, the mean of the last quarter's prompts is kept, unless the one with the lowest loss is
        clearly better at them; or, of a training that goes on from a tuned prompt, not worse.

        The loss of labels rises long before fewer of them are right: with few records the lowest is often
        that of a prompt that has hardly begun to learn (docs/log.md).
        """
        (candidate,) = self._candidates[:1]
        validation, best = self._validation, candidate.best
        if not self._plan.labels or validation is None or best is None or self._done < self._last_quarter:
            return
        mean, lowest = (validation.right(prompt, JUDGED) for prompt in (candidate.mean(), best.prompt))
        is_better = sum(mean) > sum(lowest)
        candidate.keeps_mean = is_better if self._plan.initial else not _clearly_more(lowest, mean)

    def _tuned(self) -> TunedPrompt:
        checkpoint = self._plan.checkpoint
        (candidate,) = self._candidates[:1]
        found = verdict(candidate, self._base, self._validation, self._trials)
        for line in sentences(found):
            _LOG.info(line)
        return TunedPrompt(
            prompt=candidate.prompt,
            base_model_name=checkpoint.name,
            base_model_fingerprint=checkpoint.fingerprint,
            verbalizer=self._parameters.verbalizer,
            separator=self._parameters.separator,
            labels=self._plan.labels,
            tuning_parameters={
                **candidate.parameters.to_dict(),
                "records": len(self._examples),
                "cut_sources": self._examples.cut_sources,
                "cut_targets": self._examples.cut_targets,
                **({f"{FIELD}_sha256": self._plan.initial.sha256} if self._plan.initial else {}),
            },
            training_logs=candidate.logs,
            verdict=found,
        )


def _clearly_more(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether more is right by more than chance explains (McNemar), or twice as much; 1 or 0 a record.

    It takes a lot: the one with the lowest loss was chosen by these very records.
    """
    only = Counter(zip(one, other, strict=True))
    only_one, only_other = only[1.0, 0.0], only[0.0, 1.0]
    is_chance = sign_test(only_one, only_other) >= _CHANCE
    return sum(one) > 2 * sum(other) or (only_one > only_other and not is_chance)
