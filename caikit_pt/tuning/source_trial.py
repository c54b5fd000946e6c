"""Which source prompt a training starts from, where it is to choose: all are tried on its own records.

First the loss of some records behind each start, before anything is learnt. The better ones then train side
by side in the same passes, and are judged by the losses of their updates: each is that of records before the
update has learnt from them, and needs no pass of its own. All of it, beside the updates of the one that goes
on, costs at most a tenth of the training, counting a loss as a third of an update. It is short in a long
training, too: what learns fastest isn't what ends best (docs/log.md).
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.tuning import RANDOM, TuningParameters
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.soft_prompt.source_start import SourceStart
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.contest import Contest, Entrant, difference, ranked
from caikit_pt.tuning.examples import Examples
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.trial import Trial
from caikit_pt.tuning.validation import row_losses

_LOG = logging.getLogger(__name__)
_SHARE, _MOST_UPDATES = 0.1, 48  # of a training, and in all
_UPDATE = 3  # losses of a window cost as much as one
_MOST_RECORDS = 64  # that losses are looked at of, before anything is learnt
_FEWEST_UPDATES = 4  # that are worth a part of what a trial may cost
_MOST_TRAINED = 4  # starts
_ORIGIN = "the trial of source prompts"
_METHOD, _SOURCE = "prompt_tuning_init_method", "prompt_tuning_init_source_model"
_NONE: Mapping[str, Any] = {"source": "", "method": RANDOM, "task": None, "task_name": ""}


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much, in nats a target token, the loss of who was chosen lies below that of the best other, and
    the standard error of that."""

    other: int
    loss: float
    error: float


@dataclass(frozen=True, slots=True)
class Course:
    """How a trial goes: how many starts are tried, by the losses of how many records, and after which update
    how many go on."""

    starts: int
    records: int
    rungs: Mapping[int, int]


def course_of(starts: int, updates: int, window: int) -> Course:
    """That of a trial of so many `starts` in front of a training of so many `updates` of `window` records.

    Half of what it may cost are losses, half are updates; of little, all are losses. Who is too much for that
    isn't tried, but for two.
    """
    may_cost = min(_SHARE * updates, _MOST_UPDATES)
    of_updates = may_cost / 2 if may_cost / 2 >= _FEWEST_UPDATES else 0.0
    losses = _UPDATE * window * (may_cost - of_updates)
    tried = min(starts, max(2, int(losses)))
    records = min(_MOST_RECORDS, max(1, int(losses / tried)))
    left, halvings = _halvings(min(tried, _MOST_TRAINED), of_updates)
    rungs = {0: left} if left < tried else {}
    step = 0
    for updates_of_rung, going_on in halvings:
        step += updates_of_rung
        rungs[step] = going_on
    return Course(tried, records, rungs)


def _halvings(starts: int, may_cost: float) -> tuple[int, list[tuple[int, int]]]:
    """How many of so many starts train, and then by turns how many updates they make, and how many go on; in
    each turn for as much as in the others, as far as whole updates allow."""
    for left in range(starts, 1, -1):
        sizes = [left]
        while sizes[-1] > 1:
            sizes.append(math.ceil(sizes[-1] / 2))
        others = [size - 1 for size in sizes[:-1]]
        if sum(others) <= may_cost:
            updates = [max(1, int(may_cost / len(others) / other)) for other in others]
            spent = sum(other * made for other, made in zip(others, updates, strict=True))
            # What turns of one update have cost too much, the longest ones save.
            while spent > may_cost:
                longest = max(range(len(updates)), key=lambda turn: updates[turn])
                updates[longest] -= 1
                spent -= others[longest]
            return left, list(zip(updates, sizes[1:], strict=True))
    return 1, []


class SourceTrial(Contest):
    """The starts of `plan`, and beside them one from none of the sources, on its `examples`."""

    errors = 1.0

    def __init__(self, plan: TuningPlan, base: BaseModel, examples: Examples, updates: int) -> None:
        course = course_of(len(plan.starts) + 1, updates, min(plan.parameters.window, len(examples)))
        self._starts: tuple[SourceStart | None, ...] = (*plan.starts[: course.starts - 1], None)
        if left_out := len(plan.starts) + 1 - len(self._starts):
            _LOG.warning("%d of the source prompts' starts aren't tried: the training is too short", left_out)
        super().__init__(list(_entrants(plan, self._starts)), course.rungs)
        self._base, self._examples = base, _some(examples, course.records)
        self._lead: Lead | None = None

    def rows(self, candidates: Sequence[Candidate], step: int) -> list[list[float]]:
        """Before the first update, the loss a target token of each of some records; then of each update."""
        if step:
            return [candidate.losses for candidate in candidates]
        prompts = [candidate.learner.prompt.finished() for candidate in candidates]
        on_device = [prompt.to(self._base.weights.device).tensors for prompt in prompts]
        summed = row_losses(self._base, on_device, self._examples)
        tokens = [len(example.target) for example in self._examples.items]
        return [[loss / length for loss, length in zip(row, tokens, strict=True)] for row in summed]

    def loss(self, rows: Sequence[float]) -> float:
        return statistics.fmean(rows)

    def decided(
        self, candidates: Sequence[Candidate], rows: Sequence[Sequence[float]], kept: Sequence[int]
    ) -> None:
        first, *_ = kept
        others = [number for number in range(len(candidates)) if number != first]
        if len(kept) == 1 and others:
            best = min(others, key=lambda number: ranked(self.loss(rows[number])))
            above, error = difference(rows[best], rows[first])
            parameters = [entrant.parameters for entrant in self.entrants]
            number = next(n for n, one in enumerate(parameters) if one is candidates[best].parameters)
            self._lead = Lead(number, above, error)

    def told(self, trials: Sequence[Trial], kept: Trial) -> dict[str, Any]:
        """With `probability`, how sure it is that the one that was kept is better than the best other: by the
        normal distribution of the difference."""
        starts = [
            trial.to_dict(start.to_dict() if start else _NONE, kept=trial is kept)
            for trial, start in zip(trials, self._starts, strict=True)
        ]
        told: dict[str, Any] = {"starts": starts}
        if lead := self._lead:
            error = lead.error if math.isfinite(lead.error) else None
            told["lead"] = {
                "other": lead.other,
                "loss": lead.loss if math.isfinite(lead.loss) else None,
                "standard_error": error,
                "probability": statistics.NormalDist().cdf(lead.loss / error) if error else None,
            }
        return {"sources": told}

    def state_dict(self) -> dict[str, Any]:
        return {"lead": self._lead and astuple(self._lead)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._lead = Lead(*state["lead"]) if state.get("lead") else None


def _entrants(plan: TuningPlan, starts: Sequence[SourceStart | None]) -> Iterator[Entrant]:
    for start in starts:
        if start is None:
            yield Entrant(_with(plan.parameters, {_METHOD: RANDOM, _SOURCE: ""}))
        else:
            initial = InitialPrompt(str(start), start.prompt)
            yield Entrant(_with(plan.parameters, start.parameters), initial)


def _with(parameters: TuningParameters, values: Mapping[str, Any]) -> TuningParameters:
    origins = {**parameters.origins, **dict.fromkeys(values, _ORIGIN)}
    return replace(parameters, **values, origins=origins)


def _some(examples: Examples, count: int) -> Examples:
    """At most `count` of them, spread evenly: a stream may be sorted by label."""
    every = max(1, len(examples) / count)
    chosen = [examples.items[int(every * number)] for number in range(min(count, len(examples)))]
    return replace(examples, items=tuple(chosen))
