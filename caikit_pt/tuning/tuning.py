"""One training while it runs; whoever drives it computes the gradients.

    while (wish := tuning.wish()) is not None:
        tuning.learn(gradients(base, wish.learners, wish.batches))

Knows nothing of others that may share these passes, nor of snapshots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initial import FIELD
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.candidates import Candidates
from caikit_pt.tuning.choice import choose
from caikit_pt.tuning.contests import contest_of
from caikit_pt.tuning.curve import is_read_after
from caikit_pt.tuning.doubts import Doubts
from caikit_pt.tuning.epochs import Epochs
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.exams import Exams, Validated
from caikit_pt.tuning.learner import Learner
from caikit_pt.tuning.losses import Losses, losses
from caikit_pt.tuning.meter import Meter
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.validation import held_out
from caikit_pt.tuning.verdict import sentences, verdict
from caikit_pt.tuning.walk import Update
from caikit_pt.tuning.whose import warn

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """The gradients that an update waits for: of each learner, on a batch of its own."""

    learners: Sequence[Learner]
    batches: Sequence[TrainingBatch]


class Tuning:
    """The training of `plan`: every window, every rung, every validation, until the last one or an early
    stop."""

    def __init__(
        self,
        plan: TuningPlan,
        base: BaseModel,
        on_update: Callable[[Progress], None],
        on_validation: Callable[[Validated], None],
        losses: Losses = losses,
    ) -> None:
        """`losses`: who computes those of validation records. Raises InvalidRecord as `make_examples`
        does."""
        self._plan, self._base, self._on_update = plan, base, on_update
        self._examples = make_examples(plan.records, base.text, plan.parameters)
        self._validation = held_out(plan, base, losses)
        self._epochs = Epochs(self._examples, plan.parameters, by_length=not base.training.trains_packed)
        contest = contest_of(plan, base, self._examples, self._validation, self._epochs.updates)
        self._candidates = Candidates(plan, base, self._epochs, contest)
        self._exams = Exams(self._validation, plan.parameters, self._epochs.updates, on_validation)
        self._doubts = Doubts(self._epochs.updates)
        self._meter = Meter(self._examples, self._epochs)
        self._left = self._epochs.left()
        self._update: Update[int] | None = None
        self.stopped = False  # early

    @property
    def at(self) -> int:
        """The update that was begun last."""
        return self._epochs.at

    @property
    def updates(self) -> int:
        """Those that it will make, unless it stops early."""
        return self._epochs.updates

    @property
    def over(self) -> bool:
        """Whether all of them are made, or it has stopped early."""
        return self.stopped or self.at >= self.updates

    def samples(self, step: int) -> int:
        """Examples that are seen up to update `step`."""
        return self._epochs.samples(step)

    @property
    def tokens_a_sample(self) -> float:
        """The mean, of sources and targets."""
        return self._meter.tokens_a_sample

    def begin(self, warns: bool = True) -> None:
        """From the beginning. Unless it `warns`, somebody else has told of what was cut."""
        self._meter.start()
        for warning in self._examples.warnings if warns else ():
            warn(_LOG, warning)
        if self._plan.initial:
            self._exams.begin(self._candidates)
        self._candidates.halve(0, 0)

    def go_on(self, state: Mapping[str, Any], told: float) -> None:
        """From where it had this `state_dict`; what it has had to tell since the update `told` is told
        again."""
        self._meter.start(state["seconds"])
        self._epochs.load_state_dict(state)
        self._candidates.load_state_dict(state)
        first = self._candidates.first
        self._exams.tell_again(first, told)
        for point in first.curve:
            if point.step > told:
                self._on_update(self._meter.progress(point, first.best))

    def wish(self) -> Wish | None:
        """Begins an update: what it needs; None where there is none left."""
        self._update = None if self.stopped else next(self._left, None)
        if self._update is None:
            return None
        learners = [candidate.learner for candidate in self._candidates]
        batch = self._examples.batch(self._update.window)
        return Wish(learners, [batch] * len(learners))

    def learn(self, losses: Sequence[torch.Tensor]) -> None:
        """Makes the update that was begun, by the gradients that its learners have got with these losses.

        Raises TrainingDiverged where the loss stops being a finite number.
        """
        update = self._update
        assert update is not None, "an update has been begun"
        self._candidates.make(update, losses)
        self._candidates.watch(update.step)
        self._candidates.halve(update.epoch, update.step)
        # First, so that the progress of this update knows its validation.
        self.stopped = self._exams.settle(self._candidates, update)
        if is_read_after(update.step, self.updates, self._base.weights.device):
            self.look()
        if len(self._candidates) == 1:
            self._doubts.look(self._candidates.first, update.step)

    def look(self) -> None:
        """Reads the losses, and tells of them. Raises TrainingDiverged."""
        for point in self._candidates.read():
            self._on_update(self._meter.progress(point, self._candidates.first.best))

    def kept(self) -> SoftPrompt:
        """The prompt that is kept at the end."""
        self._choose()
        return self._candidates.first.prompt

    def tuned(self) -> TunedPrompt:
        """The same with its verdict."""
        answers, candidate, plan = self._choose(), self._candidates.first, self._plan
        found = verdict(candidate, self._base, self._validation, self._candidates.told, answers)
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
            initial=candidate.initial.tensors,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on. What plan and seeds make again isn't in it. Updates
        must have been read."""
        return {
            "seconds": self._meter.seconds,
            **self._epochs.state_dict(),
            **self._candidates.state_dict(),
        }

    def _choose(self) -> Sequence[Request] | None:
        """Of labels, between the lowest loss and the mean of the last quarter, where there are both."""
        candidate, has_mean = self._candidates.first, self._epochs.at >= self._epochs.last_quarter
        if not (self._plan.labels and self._validation and candidate.best and has_mean):
            return None
        return choose(candidate, self._validation, goes_on=self._plan.initial is not None)
