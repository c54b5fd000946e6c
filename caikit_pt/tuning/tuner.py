"""Tunes a soft prompt: plan -> examples -> windows -> updates -> soft prompt and verdict.

Knows nothing of gRPC or caikit. All randomness comes from generators seeded by the plan, so a job has
the same result alone and beside others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from caikit_pt import ending
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.losses import Losses, losses
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuning import Tuning

_LOG = logging.getLogger(__name__)


def tune(
    plan: TuningPlan,
    base: BaseModel,
    on_update: Callable[[Progress], None] | None = None,
    gradients: Gradients = gradients,
    snapshots: Snapshots | None = None,
    on_validation: Callable[[Validated], None] | None = None,
    losses: Losses = losses,
) -> TunedPrompt:
    """Trains the soft prompt that `plan` describes in front of the frozen `base`.

    `gradients` computes those of an update; another than the default may do so for several trainings.
    `losses` computes those of validation records.
    With `snapshots` it goes on from the newest, if there is one, and keeps more; on the CPU it ends with the
    same bits as if it had never been interrupted. Raises TrainingDiverged where the loss stops being a finite
    number, TrainingInterrupted where `snapshots.stop` is set or the process ends, InvalidRecord as
    `make_examples` does, InvalidParameter where `base` can't be trained.
    """

    from caikit_pt.base_model.trials.training import check_training

    def ignore(_: object) -> None: ...

    with ending.waits_for_this(), no_denormals():
        check_training(base.training, plan.parameters.output_model_types)
        tuning = Tuning(plan, base, on_update or ignore, on_validation or ignore, losses)
        _begin(tuning, snapshots)
        while (wish := tuning.wish()) is not None:
            if ending.is_near():
                raise TrainingInterrupted("The training was stopped: its process is ending.")
            tuning.learn(gradients(base, wish.learners, wish.batches))
            if snapshots and snapshots.due and not tuning.stopped:
                _keep(tuning, snapshots)
        tuning.look()
        return tuning.tuned()


def _begin(tuning: Tuning, snapshots: Snapshots | None) -> None:
    """From the newest snapshot, or from the beginning."""
    state = snapshots.newest() if snapshots else None
    if not (snapshots and state):
        tuning.begin()
        return
    tuning.go_on(state, snapshots.told)
    _LOG.info("the training goes on from update %d of %d", tuning.at, tuning.updates)


def _keep(tuning: Tuning, snapshots: Snapshots) -> None:
    """Raises TrainingInterrupted where nobody wants the training to go on now."""
    tuning.look()
    snapshots.keep_and_go_on(tuning.at, tuning.updates, tuning.state_dict())
