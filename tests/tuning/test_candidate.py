"""What one prompt of a training remembers."""

from __future__ import annotations

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning.candidate import Candidate

from .training import plan


def test_validations_since_the_best_count_where_losses_are_read_late(llama: BaseModel) -> None:
    """On a GPU the losses of updates are read, and logged, some validations after they were made."""
    candidate = Candidate.begin(llama, plan(llama).parameters, None, 9)
    losses = [5.0, 4.0, 4.5, 4.0, 3.0, 3.5]
    since = []
    for step, loss in enumerate(losses, start=1):
        candidate.updated(1, step, 0.3, torch.tensor(1.0), torch.tensor(True))
        candidate.validated(1, step, {"loss": loss})
        if step == 4:
            candidate.read()
        since.append(candidate.validations_since_best)
    assert since == [0, 0, 1, 2, 0, 1]


def test_what_a_prompt_begins_with_is_not_a_validation_without_a_better_loss(llama: BaseModel) -> None:
    candidate = Candidate.begin(llama, plan(llama).parameters, None, 9)
    for step in range(3):
        candidate.validated(1, step, {"loss": float("nan")})
    assert candidate.validations_since_best == 2
