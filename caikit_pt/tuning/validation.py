"""How good a soft prompt is on records that it isn't trained on: losses, and answers as served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.parameters.tuning import CLASSIFICATION
from caikit_pt.serving.engine import generate
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.estimate import Estimate, ratio
from caikit_pt.tuning.examples import Examples, make_examples
from caikit_pt.tuning.losses import Losses, losses
from caikit_pt.tuning.metrics import calibration_error, exact_match, scores
from caikit_pt.tuning.outcome import outcome
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Records

_ANSWERS_AT_ONCE = 32
# Answers cost far more than losses: while a training runs, so many are looked at; at its end, so many.
# The candidates of a search, each of which has losses, are judged by no more records, too.
WATCHED, JUDGED = 32, 200
_DRAW_SEED = 73
# The probabilities of many labels take many more passes than their answers.
_MOST_LABELS_TO_CALIBRATE = 50


@dataclass(frozen=True, slots=True)
class Scores:
    """One look at the validation records. `loss` is nats a target token."""

    loss: Estimate
    metrics: Mapping[str, Estimate]

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return math.exp(min(self.loss.value, 700.0))

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {
            "loss": self.loss.to_dict(),
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
        }


class Validation:
    """The records that a training is judged by."""

    def __init__(
        self,
        base: BaseModel,
        records: Records,
        examples: Examples,
        task: str,
        labels: Labels | None = None,
        losses: Losses = losses,
    ) -> None:
        """`task` is what it is judged as (`TuningPlan.judged_as`), `labels` are those that served answers are
        confined to; `losses` computes those of the records."""
        import torch

        self._base, self._records, self._examples = base, records, examples
        self._task, self._labels, self._losses = task, labels, losses
        # Looks at some of them are at a fair draw: a stream may be sorted by label.
        self._drawn = torch.randperm(
            len(examples), generator=torch.Generator().manual_seed(_DRAW_SEED)
        ).tolist()
        self._batch = examples.batch(range(len(examples)))

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def watched(self) -> int:
        """How many of them are answered while a training runs."""
        return min(WATCHED, len(self))

    @property
    def digest(self) -> str:
        """Of the records, by which it is known again."""
        return self._records.digest

    def draw(self, count: int) -> Validation:
        """By at most `count` of the records, always the same of a stream."""
        if count >= len(self):
            return self
        drawn = sorted(self._drawn[:count])
        records = replace(self._records, items=tuple(self._records.items[index] for index in drawn))
        examples = replace(self._examples, items=tuple(self._examples.items[index] for index in drawn))
        return Validation(self._base, records, examples, self._task, self._labels, self._losses)

    def row_losses(self, prompts: Sequence[PromptTensors]) -> list[list[float]]:
        """For each of `prompts`, the summed loss of each record; they share their forward passes."""
        return row_losses(self._base, prompts, self._examples, self._losses)

    def loss(self, rows: Sequence[float]) -> Estimate:
        """The mean over all target tokens, of the summed losses of the records."""
        return ratio(rows, [float(len(target)) for target in self._batch.targets])

    def right(self, asked: Sequence[Request]) -> list[float]:
        """For each of the `answers`, 1 where it is the expected output, else 0."""
        return exact_match([request.text for request in asked], self._outputs(len(asked)))

    def outcome(self, tuned: Sequence[Request], untuned: Sequence[Request], course: str) -> dict[str, Any]:
        """What the tuned prompt is worth, by its `answers` and those of the untuned base (outcome.py)."""
        answers, others = ([request.text for request in asked] for asked in (tuned, untuned))
        return outcome(self._outputs(len(tuned)), answers, others, self._task == CLASSIFICATION, course)

    def scores(
        self,
        prompt: SoftPrompt,
        answered: int = WATCHED,
        calibration: bool = False,
        asked: Sequence[Request] | None = None,
    ) -> Scores:
        """Loss over all records, and the task's metrics over the answers to `answered` of them, where these
        haven't been `asked` for already.

        With `calibration` that of the labels' probabilities, too, where answers are labels.
        """
        (rows,) = self.row_losses([prompt.to(self._base.weights.device).tensors])
        asked = self.answers(prompt, answered, calibration) if asked is None else asked
        answers, outputs = [request.text for request in asked], self._outputs(len(asked))
        found = dict(scores(self._task, answers, outputs))
        if calibration and self._calibrates:
            # Of an answer that failed no label's is known.
            known = [request.search.probabilities.values() for request in asked if request.search]
            sure = [max(each, default=0.0) for each in known]
            found["calibration_error"] = calibration_error(sure, exact_match(answers, outputs))
        return Scores(self.loss(rows), found)

    def answers(self, prompt: SoftPrompt, count: int, calibration: bool = False) -> list[Request]:
        """Greedy answers to `count` records, always the same, by the code that serves; each as long as the
        longest output and one token more.

        With `calibration` their labels have probabilities, where answers are labels and these not too many.
        """
        prompt, probabilities = prompt.to(self._base.weights.device), calibration and self._calibrates
        longest = max(len(target) for target in self._batch.targets)
        parameters = GenerationParameters(
            max_new_tokens=longest + 1, preserve_input_text=False, label_probabilities=probabilities
        )
        answers: list[Request] = []
        sources = [self._batch.sources[index] for index in self._drawn[:count]]
        for start in range(0, len(sources), _ANSWERS_AT_ONCE):
            requests = [
                Request(self._base.text, prompt, source, parameters, labels=self._labels)
                for source in sources[start : start + _ANSWERS_AT_ONCE]
            ]
            for _ in generate(self._base, requests):
                pass
            answers += requests
        return answers

    @property
    def _calibrates(self) -> bool:
        return self._labels is not None and len(self._labels.texts) <= _MOST_LABELS_TO_CALIBRATE

    def _outputs(self, count: int) -> list[str]:
        return [self._records.items[index].output for index in self._drawn[:count]]


def row_losses(
    base: BaseModel, prompts: Sequence[PromptTensors], examples: Examples, losses: Losses = losses
) -> list[list[float]]:
    """For each of `prompts`, the summed loss of each of `examples`; they share their forward passes."""
    together = examples.batch(
        [*range(len(examples))] * len(prompts),
        [number for number in range(len(prompts)) for _ in range(len(examples))],
    )
    rows: list[list[float]] = losses(base, prompts, together).view(len(prompts), -1).tolist()
    return rows


def held_out(plan: TuningPlan, base: BaseModel, losses: Losses = losses) -> Validation | None:
    """What the training of `plan` is judged by; None where it has no records for that. `losses` computes
    those of these records.

    Raises InvalidRecord as `make_examples` does.
    """
    if plan.validation is None:
        return None
    examples = make_examples(plan.validation, base.text, plan.parameters)
    labels = plan.answer_labels(base.text)
    return Validation(base, plan.validation, examples, plan.judged_as, labels, losses)
