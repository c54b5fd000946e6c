"""Validations of several tasks that are trained together: the lowest mean of their losses decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.tuning.exams import Validated, is_due, scores_of
from caikit_pt.tuning.mixture import OfTask
from caikit_pt.tuning.task_learner import TaskLearner
from caikit_pt.tuning.validation import Validation
from caikit_pt.tuning.walk import Update


@dataclass(frozen=True, slots=True)
class BestSource:
    """The source with the lowest mean of validation losses, and when that was."""

    source: SourcePrompt
    loss: float
    epoch: int
    step: int


class TaskExams:
    """Those of one training on the validation records of its tasks by name; of a task without there are
    none."""

    def __init__(
        self,
        validations: Mapping[str, Validation | None],
        parameters: TuningParameters,
        updates: int,
        on_validation: Callable[[str, Validated], None],
    ) -> None:
        """`on_validation` is told the task and what was found, and for all of them "" and the mean loss."""
        self._validations, self._parameters, self._updates = validations, parameters, updates
        self._on_validation = on_validation
        self._lowest: dict[str, float] = {}
        self._since_best = 0
        self.best: BestSource | None = None

    def settle(self, learner: TaskLearner, update: Update[OfTask]) -> bool:
        """Validates where it is time to; whether the training may stop."""
        due = is_due(self._parameters, update.step, update.ends_epoch, self._updates)
        if not any(self._validations.values()) or not due:
            return False
        source = learner.prompts.finished(list(self._validations))
        losses = [
            self._validated(number, name, source, update)
            for number, (name, validation) in enumerate(self._validations.items())
            if validation
        ]
        mean = sum(losses) / len(losses)
        better = self._is_lowest("", mean)
        if better:
            self.best = BestSource(source, mean, update.epoch, update.step)
        self._since_best = 0 if better else self._since_best + 1
        looked_at = [validation for validation in self._validations.values() if validation]
        answers, records = sum(one.watched for one in looked_at), sum(map(len, looked_at))
        found = Validated(update.epoch, update.step, {"loss": mean}, better, answers, records)
        self._on_validation("", found)
        return 0 < self._parameters.early_stopping_patience <= self._since_best

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        best = self.best
        return {
            "lowest": self._lowest,
            "since_best": self._since_best,
            "best": best
            and {
                "tensors": [best.source.shared, best.source.columns, best.source.rows],
                "when": (best.loss, best.epoch, best.step),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any], like: SourcePrompt) -> None:
        """As it was; of sources `like` this one."""
        self._lowest, self._since_best = state["lowest"], state["since_best"]
        if best := state["best"]:
            shared, columns, rows = best["tensors"]
            self.best = BestSource(replace(like, shared=shared, columns=columns, rows=rows), *best["when"])

    def _validated(self, number: int, name: str, source: SourcePrompt, update: Update[OfTask]) -> float:
        """The loss of one task, the `number`th."""
        validation = self._validations[name]
        assert validation is not None, "whoever asks has looked"
        values = scores_of(validation, source.prompt_of(number, self._parameters.output_model_types))
        better = self._is_lowest(name, values["loss"])
        answers, records = validation.watched, len(validation)
        self._on_validation(name, Validated(update.epoch, update.step, values, better, answers, records))
        return values["loss"]

    def _is_lowest(self, name: str, loss: float) -> bool:
        lowest = math.isfinite(loss) and loss < self._lowest.get(name, math.inf)
        if lowest:
            self._lowest[name] = loss
        return lowest
