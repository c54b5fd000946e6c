"""Tunes a soft prompt: plan -> examples -> windows -> updates -> soft prompt and verdict.

Knows nothing of gRPC or caikit. All randomness comes from generators seeded by the plan, so a job has
the same result alone and beside others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caikit_pt import ending
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initial import FIELD
from caikit_pt.tuning.candidates import Candidates
from caikit_pt.tuning.choice import choose
from caikit_pt.tuning.doubts import Doubts
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.exams import Exams, Validated
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.meter import Meter
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.validation import held_out
from caikit_pt.tuning.verdict import sentences, verdict

_LOG = logging.getLogger(__name__)
# On a GPU, losses are fetched every so many updates: fetching one waits for all that was computed before.
_UPDATES_TO_A_LOOK = 10


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
    number, TrainingInterrupted where `snapshots.stop` is set or the process ends, InvalidRecord as
    `make_examples` does, InvalidParameter where `base` can't be trained.
    """

    from caikit_pt.base_model.trials.training import check_training

    def ignore(_: object) -> None: ...

    with ending.waits_for_this(), no_denormals():
        check_training(base.training, plan.parameters.output_model_types)
        tuning = _Tuning(plan, base, on_update or ignore, on_validation or ignore, gradients)
        tuning.run(snapshots)
        return tuning.tuned()


class _Tuning:
    """One training while it runs."""

    def __init__(
        self,
        plan: TuningPlan,
        base: BaseModel,
        on_update: Callable[[Progress], None],
        on_validation: Callable[[Validated], None],
        gradients: Gradients,
    ) -> None:
        self._plan, self._base, self._gradients, self._on_update = plan, base, gradients, on_update
        self._examples = make_examples(plan.records, base.text, plan.parameters)
        self._validation = held_out(plan, base)
        self._epochs = Epochs(self._examples, plan.parameters, by_length=not base.training.trains_packed)
        self._candidates = Candidates(plan, base, self._epochs)
        self._exams = Exams(self._validation, plan.parameters, self._epochs.updates, on_validation)
        self._doubts = Doubts(self._epochs.updates)
        self._meter = Meter(self._examples, self._epochs)

    def run(self, snapshots: Snapshots | None) -> None:
        """Every window, every rung, every validation, until the last one or an early stop."""
        self._begin(snapshots)
        for update in self._epochs.left():
            if ending.is_near():
                raise TrainingInterrupted("The training was stopped: its process is ending.")
            self._candidates.make(update, self._examples.batch(update.window), self._gradients)
            self._candidates.watch(update.step)
            self._candidates.halve(update, self._validation)
            if self._reads_after(update.step):
                self._look()
            if len(self._candidates) == 1:
                self._doubts.look(self._candidates.first, update.step)
            if self._exams.settle(self._candidates, update):
                break
            if snapshots and snapshots.due:
                self._keep(snapshots)
        self._look()

    def tuned(self) -> TunedPrompt:
        """The prompt that is kept, with its verdict."""
        answers, candidate, plan = self._choose(), self._candidates.first, self._plan
        found = verdict(candidate, self._base, self._validation, self._candidates.trials, answers)
        for line in sentences(found):
            _LOG.info(line)
        return TunedPrompt(
            prompt=candidate.prompt,
            base_model_name=plan.checkpoint.name,
            base_model_fingerprint=plan.checkpoint.fingerprint,
            verbalizer=plan.parameters.verbalizer,
            separator=plan.parameters.separator,
            labels=plan.labels,
            tuning_parameters={
                **candidate.parameters.to_dict(),
                "records": len(self._examples),
                "cut_sources": self._examples.cut_sources,
                "cut_targets": self._examples.cut_targets,
                **({f"{FIELD}_sha256": plan.initial.sha256} if plan.initial else {}),
            },
            training_logs=candidate.logs,
            verdict=found,
        )

    def _begin(self, snapshots: Snapshots | None) -> None:
        """From the newest snapshot, or from the beginning."""
        self._meter.start()
        state = snapshots.newest() if snapshots else None
        if snapshots and state:
            self._load_state_dict(state)
            self._tell_again(snapshots.told)
            _LOG.info("the training goes on from update %d of %d", self._epochs.at, self._epochs.updates)
            return
        for warning in self._examples.warnings:
            _LOG.warning(warning)
        if self._plan.initial:
            self._exams.begin(self._candidates)

    def _reads_after(self, step: int) -> bool:
        is_last = step == self._epochs.updates
        return is_last or self._base.weights.device.type == "cpu" or step % _UPDATES_TO_A_LOOK == 0

    def _look(self) -> None:
        """Reads the losses, and tells of them."""
        for point in self._candidates.read():
            self._on_update(self._meter.progress(point, self._candidates.first.best))

    def _tell_again(self, told: float) -> None:
        """What the snapshot has of the curve since the update `told`. Of that one the validation may not have
        been heard, which comes behind it."""
        first = self._candidates.first
        self._exams.tell_again(first, told)
        for point in first.curve:
            if point.step > told:
                self._on_update(self._meter.progress(point, first.best))

    def _choose(self) -> Sequence[Request] | None:
        """Of labels, between the lowest loss and the mean of the last quarter, where there are both."""
        candidate, has_mean = self._candidates.first, self._epochs.at >= self._epochs.last_quarter
        if not (self._plan.labels and self._validation and candidate.best and has_mean):
            return None
        return choose(candidate, self._validation, goes_on=self._plan.initial is not None)

    def _keep(self, snapshots: Snapshots) -> None:
        """Raises TrainingInterrupted where nobody wants the training to go on now."""
        self._look()
        snapshots.keep(self._epochs.at, self._state_dict())
        if snapshots.stop.is_set():
            raise TrainingInterrupted(
                f"The training was stopped at update {self._epochs.at} of {self._epochs.updates}."
            )

    def _state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on. What plan and seeds make again isn't in it."""
        return {
            "seconds": self._meter.seconds,
            **self._epochs.state_dict(),
            **self._candidates.state_dict(),
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._meter.start(state["seconds"])
        self._epochs.load_state_dict(state)
        self._candidates.load_state_dict(state)
