"""What the tests and the report have a device do: updates of a training, and steps of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.tuning.training import THINGS, plan

from .product import (
    BaseModel,
    Candidate,
    Engine,
    GenerationParameters,
    Labels,
    Limits,
    Request,
    SoftPrompt,
    TrainingBatch,
    gradients,
    make_examples,
)

RECORDS = [
    {"input": f"the {thing} is {'very ' * (number % 4)}{mood}", "output": mood}
    for number, thing in enumerate(THINGS)
    for mood in ("good", "bad")
]
LABELS = ("good", "bad", "very bad", "good enough")
# Every way to draw, and to penalise: a row for each in turn.
WAYS: Sequence[dict[str, Any]] = (
    {},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.8},
    {"typical_p": 0.5},
    {"repetition_penalty": 1.2},
    {"min_new_tokens": 6},
    {"decay": (1, 1.5)},
)


class Training:
    """One prompt of a training, to be updated by the same records again and again."""

    def __init__(self, base: BaseModel, records: int = 8, **request: Any) -> None:
        planned = plan(base, RECORDS, tuning_task="generation", **request)
        self.base = base
        self.learner = Candidate.begin(base, planned.parameters, None, 100).learner
        examples = make_examples(planned.records, base.text, planned.parameters)
        self.batch: TrainingBatch = examples.batch(range(records))

    def update(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss, and the gradients that the weights got; and they are moved by them."""
        loss, kept = self.compute()
        self.learner.step(loss)
        return loss, kept

    def compute(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `update`, and nothing is moved."""
        (loss,) = gradients(self.base, [self.learner], [self.batch])
        weights = [weight for group in self.learner.prompt.parameter_groups() for weight in group["params"]]
        return loss, [weight.grad.clone() for weight in weights if weight.grad is not None]


def request(
    base: BaseModel,
    number: int,
    labels: Labels | None = None,
    decay: tuple[int, float] | None = None,
    **fields: Any,
) -> Request:
    """A request with a text and a soft prompt of its own, which are those of its number on every device."""
    generator = torch.Generator().manual_seed(number)
    rows = 0.5 * torch.randn(2 + number % 3, base.checkpoint.hidden_size, generator=generator)
    prompt = SoftPrompt({base.checkpoint.prompt_parts[0]: rows})
    asked = {"max_new_tokens": 6 + number % 4, "seed": number, **fields}
    parameters = GenerationParameters.from_request(asked, decay, {})
    ids = base.text.source_ids(str(RECORDS[number % len(RECORDS)]["input"]))
    return Request(base.text, prompt, ids, parameters, labels=labels)


def greedy(base: BaseModel, number: int, **fields: Any) -> Request:
    """A request that takes the likeliest token."""
    return request(base, number, **fields)


def sampled(base: BaseModel, number: int, **fields: Any) -> Request:
    """A request that draws, in one of the `WAYS`."""
    return request(base, number, **{"decoding_method": "SAMPLING", **fields, **WAYS[number % len(WAYS)]})


def confined(base: BaseModel, number: int, **fields: Any) -> Request:
    """A request whose answer is a label."""
    return request(base, number, Labels(base.text, LABELS, "", 9), **fields)


def under_way(base: BaseModel, requests: Sequence[Request], steps: int) -> Engine:
    """An engine in which all of `requests` have been read, and have got tokens in some `steps`."""
    engine = Engine(base, Limits(rows=len(requests), waiting=len(requests)))
    for each in requests:
        engine.submit(each)
    for _ in range(steps):
        engine.step()
    return engine
