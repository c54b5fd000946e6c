"""One contender on one draw of records, through the product's own path, and what it is worth."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from bench.quality.contender import OUTSIDERS, PEFT, REQUESTS, is_chosen_among
from bench.quality.outsiders import ANSWERS
from bench.quality.peft_loop import PeftLoop
from bench.quality.task import Record, Task
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import PROMPT_TUNING
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.metrics import exact_match
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.records import read_records
from caikit_pt.tuning.search import candidates
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Validation

# To be raised when the training, the answers or what judges them change in a way that no parameter tells of:
# outcomes of other editions aren't used.
EDITION = 2
_CHOSEN = ("learning_rate", "prompt_tuning_init_method", "num_virtual_tokens")
# They change nothing that is measured.
_IRRELEVANT = ("origins", "silence_progress_bars")
# Nor do these where nothing comes from a source prompt.
_OF_SOURCES = ("task_learning_rate", "prompt_tuning_init_task_name")


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried. `seed` is that of the training and of the draw of `records`; scored on `judged` others.

    `model` is empty for outsiders, which have none.
    """

    model: str
    task: str
    contender: str
    seed: int
    records: int
    judged: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial: `accuracy` on the test records and CPU `seconds` of the training.

    `selected` is the accuracy on the selection records, for those among which a choice is made;
    `validation_loss` the best of the training. `basis` stands for all that this depends on.
    """

    trial: Trial
    basis: str
    accuracy: float
    seconds: float
    chosen: str = ""
    selected: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True, slots=True)
class _Trained:
    """What came of a training that didn't diverge."""

    prompt: SoftPrompt
    chosen: str
    validation_loss: float | None = None


class Attempt:
    """A trial that can be made. `also` is requested of every training."""

    def __init__(
        self, trial: Trial, task: Task, base: BaseModel | None, also: Mapping[str, Any] | None = None
    ) -> None:
        self.trial, self._task, self._base = trial, task, base
        self._also = also or {}

    @cached_property
    def basis(self) -> str:
        """A short hash of the records, the parameters as they are resolved, and what else decides."""
        decides: dict[str, Any] = {"edition": EDITION, "records": self._task.digest}
        if self.trial.contender in OUTSIDERS:
            decides[self.trial.contender] = version("scikit-learn")
        else:
            plan = self._plan()
            tried = candidates(plan.parameters, plan.limits, plan.labels)
            decides["model"] = plan.checkpoint.fingerprint
            decides["parameters"] = [deciding(one.to_dict()) for one in tried]
        if self.trial.contender in PEFT:
            decides["peft"] = [version("peft"), PEFT[self.trial.contender]]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]

    def make(self) -> Outcome:
        """Trains and scores. What diverges answers nothing."""
        return self._without_a_model() if self.trial.contender in OUTSIDERS else self._with_a_prompt()

    def _without_a_model(self) -> Outcome:
        started = time.process_time()
        texts = [record["input"] for record in self._task.test]
        answers = ANSWERS[self.trial.contender](self._train, texts)
        seconds = time.process_time() - started
        right = exact_match(answers, [record["output"] for record in self._task.test])
        return Outcome(self.trial, self.basis, sum(right) / len(right), seconds)

    def _with_a_prompt(self) -> Outcome:
        started = time.process_time()
        plan = self._plan()
        try:
            trained = self._by_peft(plan) if self.trial.contender in PEFT else self._by_us(plan)
        except TrainingDiverged:
            trained = None
        seconds = time.process_time() - started

        def share(records: Sequence[Record]) -> float:
            return accuracy(self._needed_base, plan, trained.prompt, records) if trained else 0.0

        return Outcome(
            self.trial,
            self.basis,
            share(self._task.test),
            seconds,
            trained.chosen if trained else "diverged",
            share(self._task.selection) if is_chosen_among(self.trial.contender) else None,
            trained.validation_loss if trained else None,
        )

    def _by_us(self, plan: TuningPlan) -> _Trained:
        tuned = tune(plan, self._needed_base)
        losses = [one["data"]["value"] for one in tuned.training_logs if one["name"] == "validation_loss"]
        chosen = " ".join(str(tuned.tuning_parameters[name]) for name in _CHOSEN)
        return _Trained(tuned.prompt, chosen, min(losses, default=None))

    def _by_peft(self, plan: TuningPlan) -> _Trained:
        """By all records: it validates on none, so it may learn from them."""
        rate = PEFT[self.trial.contender]
        records = read_records(self._train, "train_stream")
        return _Trained(PeftLoop(self._needed_base, plan, rate).run(records), str(rate))

    def _plan(self) -> TuningPlan:
        """The rival of ours has the parameters of the defaults, but for its rate."""
        asked = {
            "base_model": self.trial.model,
            "tuning_task": "classification",
            "seed": self.trial.seed,
            **REQUESTS.get(self.trial.contender, {}),
            **self._also,
        }
        return make_plan(asked, self._train, None, Settings(), self._needed_base)

    @property
    def _train(self) -> list[Record]:
        return self._task.draw(self.trial.records, self.trial.seed)

    @property
    def _needed_base(self) -> BaseModel:
        assert self._base is not None, "only outsiders have none"
        return self._base


def accuracy(base: BaseModel, plan: TuningPlan, prompt: SoftPrompt, records: Sequence[Record]) -> float:
    """The share of right answers to `records`, by the code that validates: confined to the plan's labels."""
    read = read_records(records, "test")
    examples = make_examples(read, base.text, plan.parameters)
    judged = Validation(base, read, examples, "classification", plan.answer_labels(base.text))
    return judged.scores(prompt, len(read)).metrics["accuracy"].value


def deciding(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those that what a training comes to depends on."""
    plain = parameters.get("tuning_type") == PROMPT_TUNING
    irrelevant = (*_IRRELEVANT, *(_OF_SOURCES if plain else ()))
    return {name: value for name, value in parameters.items() if name not in irrelevant}
