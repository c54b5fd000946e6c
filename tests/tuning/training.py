"""What the tests of training share: records, plans, gradients that the test itself decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt, TrainablePrompt
from caikit_pt.soft_prompt.trainable import trainable
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.learner import Learner
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.plan import TuningPlan, make_plan
from tests.conftest import SETTINGS

THINGS = ("kettle", "lamp", "desk", "chair", "mixer", "fan", "phone", "clock", "sofa", "radio")
PAIRS = [{"input": f"the {thing} is {mood}", "output": mood} for thing in THINGS for mood in ("good", "bad")]
HELD_OUT = PAIRS[12:]
# Everything is the other way round: the better the training goes, the worse this gets.
CONTRADICTING = [
    {"input": pair["input"], "output": "bad" if pair["output"] == "good" else "good"} for pair in PAIRS
]


def plan(
    base: BaseModel,
    records: Sequence[Any] = PAIRS[:10],
    validation: Sequence[Any] | None = None,
    **request: Any,
) -> TuningPlan:
    """A plan of a few updates."""
    quick = {"num_virtual_tokens": 4, "num_epochs": 2, "batch_size": 5}
    request = {"base_model": base.checkpoint.name, **quick, **request}
    return make_plan(request, records, validation, SETTINGS)


def validation_loss(planned: TuningPlan, base: BaseModel, prompt: PromptTensors) -> float:
    """Nats a target token of all records that a training is validated with."""
    assert planned.validation is not None
    examples = make_examples(planned.validation, base.text, planned.parameters)
    batch = examples.batch(range(len(examples)))
    return float(losses(base, [prompt], batch).sum()) / batch.target_tokens


def learner_of(parameters: TuningParameters, updates: int, parts: Sequence[str]) -> Learner:
    """A learner whose prompt [4, 6] is drawn from the seed."""
    generator = torch.Generator().manual_seed(parameters.seed)
    initial = SoftPrompt({part: torch.randn(4, 6, generator=generator) for part in parts})
    return Learner(trainable(initial, parameters, generator), parameters, updates)


def weights_of(prompt: TrainablePrompt) -> list[torch.Tensor]:
    """What an optimiser moves."""
    return [weight for group in prompt.parameter_groups() for weight in group["params"]]


def drawn_gradients(weights: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """One for each of `weights`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(weight.shape, generator=generator) for weight in weights]


def curve(tuned: Any, name: str = "loss") -> list[float]:
    """The values of a curve in the logs of a tuned prompt."""
    return [entry["data"]["value"] for entry in tuned.training_logs if entry["name"] == name]


def spoilt(
    real: Callable[..., list[torch.Tensor]], spoil: Callable[[int, Learner, torch.Tensor], torch.Tensor]
) -> Callable[..., list[torch.Tensor]]:
    """`real` gradients, each loss of which passes through `spoil(update, learner, loss)`."""
    made: dict[Learner, int] = {}

    def compute(
        base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]
    ) -> list[torch.Tensor]:
        losses = real(base, learners, batches)
        for learner in learners:
            made[learner] = made.get(learner, 0) + 1
        return [spoil(made[learner], learner, loss) for learner, loss in zip(learners, losses, strict=True)]

    return compute
