"""One contender on one draw of records: what it starts from, what it learns, and what it is worth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from bench.quality.task import Record, Task
from bench.quality.trial import Outcome, Trial, accuracy
from bench.starts.contender import CONTENDERS, LABELS, Contender
from bench.starts.draw import draw, labels
from bench.starts.kept import SOURCE, Kept
from bench.starts.known import known, short_hash
from bench.starts.recipe import DEFAULT
from bench.starts.start import FIRST_UPDATES, Target, starting_from
from bench.starts.taught import taught_by
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import EXACT_SOURCE_TASK
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.tuner import tune

TOKENS = 20
_METHOD, _MODEL = "prompt_tuning_init_method", "prompt_tuning_init_source_model"
_TASK = "prompt_tuning_init_task"

# What many contenders share, by all that it follows from: records, and parameters as they are resolved.
_DRAWN: dict[tuple[str, int, int], list[Record]] = {}
_RESOLVED: dict[str, dict[str, Any]] = {}


class Attempt:
    """A trial that can be made. `also` is requested of every training."""

    def __init__(
        self, trial: Trial, task: Task, base: BaseModel, kept: Kept, also: Mapping[str, Any] | None = None
    ) -> None:
        self.trial, self._task, self._base, self._kept = trial, task, base, kept
        self._also = also or {}

    @cached_property
    def basis(self) -> str:
        """A short hash of the records, the parameters as they are resolved, and what else decides: of a
        source and of teachers the hash of their recipe, which is known without them."""
        one = self._contender
        told: dict[str, Any] = {
            "records": [self._task.digest, self._train],
            "model": self._base.checkpoint.fingerprint,
            "parameters": self._parameters,
            "trains": one.trains,
        }
        if one.source:
            told["source"] = [
                one.request.get(_METHOD),
                one.request.get(_MODEL),
                self._kept.digest(one.source),
            ]
        for name, by in (("rows", one.rows), ("teacher", one.teacher)):
            if by:
                sources = [self._kept.teachers_digest, self._kept.digest(DEFAULT)]
                told[name] = [by.__name__, FIRST_UPDATES, *sources]
        return short_hash(told)

    def make(self) -> Outcome:
        """Trains and scores. What diverges answers nothing. Raises InvalidParameter where the product hasn't
        got what the contender asks for."""
        plan = self._plan(self._request)
        self._read_sources()
        started = time.process_time()
        try:
            prompt, chosen = self._come_to(plan) if self._contender.trains else (SoftPrompt({}), "")
        except TrainingDiverged:
            prompt, chosen = None, "diverged"
        seconds = time.process_time() - started if self._contender.trains else 0.0
        right = accuracy(self._base, plan, prompt, self._task.test) if prompt else 0.0
        return Outcome(self.trial, self.basis, right, seconds, chosen)

    def _come_to(self, plan: TuningPlan) -> tuple[SoftPrompt, str]:
        """The prompt, and what it started from."""
        one, target = self._contender, Target(plan, self._base, self._kept)
        more: dict[str, Any] = {}
        if one.teacher:
            parameters = self._kept.plan(DEFAULT).parameters
            more["gradients"] = taught_by(one.teacher(target), self._base, parameters)
        tuned = tune(starting_from(plan, one.rows(target)) if one.rows else plan, self._base, **more)
        return tuned.prompt, one.name if one.rows else _chosen(tuned.tuning_parameters)

    def _read_sources(self) -> None:
        """Made or read, they are there for many trials: their seconds are of none."""
        if self._contender.rows or self._contender.teacher:
            _ = self._kept.teachers, self._kept.source(DEFAULT)
        if self._contender.name == "on the way":
            self._kept.way(DEFAULT)

    @property
    def _parameters(self) -> dict[str, Any]:
        """As they are resolved; many contenders have the same."""
        request = self._without_a_source
        key = short_hash([self.trial.model, self.trial.seed, self._train, request, self._also])
        if key not in _RESOLVED:
            _RESOLVED[key] = known(self._plan(request).parameters.to_dict())
        return _RESOLVED[key]

    def _plan(self, request: Mapping[str, Any]) -> TuningPlan:
        asked = {
            "base_model": self.trial.model,
            "tuning_task": "classification",
            "seed": self.trial.seed,
            "num_virtual_tokens": TOKENS,
            **request,
            **self._also,
        }
        settings = Settings()
        if request.get(_MODEL):
            recipe = self._contender.source
            assert recipe, "whoever names a source has one"
            settings = Settings(source_prompt_base=str(self._kept.library(recipe)))
        return make_plan(asked, self._train, None, settings, self._base, tells=False)

    @property
    def _request(self) -> dict[str, Any]:
        """What is asked of the product."""
        told = ", ".join(labels(self._train))
        request = {
            name: told if value == LABELS else value for name, value in self._contender.request.items()
        }
        return {_MODEL: SOURCE, **request} if self._contender.source else request

    @property
    def _without_a_source(self) -> dict[str, Any]:
        """The same as if there were no source prompts, so that none has to be there."""
        left_out = (_METHOD, _MODEL) if self._contender.source else ()
        return {name: value for name, value in self._request.items() if name not in left_out}

    @property
    def _contender(self) -> Contender:
        return CONTENDERS[self.trial.contender]

    @cached_property
    def _train(self) -> list[Record]:
        key = (self._task.digest, self.trial.records, self.trial.seed)
        if key not in _DRAWN:
            _DRAWN[key] = draw(self._task, self.trial.records, self.trial.seed)
        return _DRAWN[key]


def _chosen(parameters: Mapping[str, Any]) -> str:
    """What the product has started from."""
    names = (_METHOD, _MODEL, *((_TASK,) if parameters[_METHOD] == EXACT_SOURCE_TASK else ()))
    return " ".join(str(parameters[name]) for name in names if parameters[name] != "")
