"""The gradients of a prompt that learns from another one, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.source import SourceParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.learner import Gradients, Learner
from caikit_pt.tuning.losses import backward
from caikit_pt.tuning.teaching import Teaching


def taught_by(teacher: SoftPrompt, base: BaseModel, parameters: SourceParameters) -> Gradients:
    """Those of a training without a search whose loss has a divergence from `teacher`'s next tokens, with the
    weight and the temperature of `parameters`."""
    teaching = Teaching(base, [teacher.tensors], parameters)

    def gradients(
        base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]
    ) -> list[torch.Tensor]:
        (learner,), (batch,) = learners, batches
        learner.forget_gradients()
        count, weight = len(batch.sources), 1 / batch.target_tokens
        lessons = teaching.lessons([0], batch)
        rows = backward(base, [learner.prompt.tensors()], batch, [weight] * count, lessons)
        return [rows.sum(dtype=torch.float32) * weight]

    return gradients
