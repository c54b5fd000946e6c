"""What the bench starts a prompt from itself, and what it learns from: functions of one signature.

Each gives the rows of every side of the prompt of a target, by its plan and what is kept of the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from bench.starts.kept import Kept
from bench.starts.recipe import DEFAULT
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.tuning import ONLY_SOURCE_SHARED
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SIDES, SourcePrompt
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.tuning import Tuning

# The updates that show in which direction a target goes.
FIRST_UPDATES = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A task to train on with few records: the plan of its plain training, and what is kept of sources."""

    plan: TuningPlan
    base: BaseModel
    kept: Kept

    @property
    def parts(self) -> tuple[str, ...]:
        """Its sides."""
        return self.plan.parameters.output_model_types


Rows = Callable[[Target], SoftPrompt]


def starting_from(plan: TuningPlan, rows: SoftPrompt) -> TuningPlan:
    """The same training from `rows`, as if they were what the tasks of a source share."""
    sides = [rows.tensors[part] for part in SIDES if part in rows.tensors]
    parameters = replace(plan.parameters, prompt_tuning_init_method=ONLY_SOURCE_SHARED)
    source = SourcePrompt("rows", torch.cat(sides), submodules=len(sides))
    return replace(plan, parameters=parameters, source=source)


# ---- what is started from ----


def halves_apart(target: Target) -> SoftPrompt:
    """The mean of the columns times the mean of the rows, whatever their signs: what AVERAGE_SOURCE isn't."""
    source = target.kept.source(DEFAULT)
    assert source.columns is not None, "a source has tasks"
    assert source.rows is not None
    apart = replace(
        source,
        columns=source.columns.mean(0, keepdim=True),
        rows=source.rows.mean(0, keepdim=True),
        tasks=(),
    )
    return _averaged([apart], target)


def mean_on_the_way(target: Target) -> SoftPrompt:
    """The mean of AVERAGE_SOURCE at each quarter of the updates of one source training."""
    return _averaged(target.kept.way(DEFAULT), target)


def task_vectors(target: Target) -> SoftPrompt:
    """The common start of all teachers, and the mean of what each has moved it by (arXiv 2408.01119)."""
    return _moved(target, vectors(target))


def agreeing_vectors(target: Target) -> SoftPrompt:
    """The same without those that point away from where the target goes first; all left out: the start."""
    agree = agreements(target)
    return _moved(target, {name: one for name, one in vectors(target).items() if agree[name] >= 0})


# ---- what is learnt from ----


def nearest_teacher(target: Target) -> SoftPrompt:
    """The prompt of the source task whose vector points most where the target goes first."""
    agree = agreements(target)
    return target.kept.teachers[max(agree, key=agree.__getitem__)]


def nearest_teacher_tuned(target: Target) -> SoftPrompt:
    """The same, tuned on the target first, as PANDA has it (arXiv 2208.10160)."""
    return tune(starting_from(target.plan, nearest_teacher(target)), target.base).prompt


# ---- vectors ----


def vectors(target: Target) -> Mapping[str, torch.Tensor]:
    """What each teacher has moved its start by, all sides one behind the other [S·P, H]."""
    initial = _stacked(target.kept.initial, target)
    return {name: _stacked(one, target) - initial for name, one in target.kept.teachers.items()}


def agreements(target: Target) -> Mapping[str, float]:
    """The cosine of each vector with what the target's first updates move the same start by."""
    initial = target.kept.initial
    tuning = Tuning(starting_from(target.plan, initial), target.base, _ignore, _ignore)
    moved = initial
    with no_denormals():
        tuning.begin()
        for _ in range(FIRST_UPDATES):
            if wish := tuning.wish():
                tuning.learn(gradients(target.base, wish.learners, wish.batches))
                moved = wish.learners[0].prompt.finished()
    direction = (_stacked(moved, target) - _stacked(initial, target)).flatten()
    return {
        name: float(torch.cosine_similarity(direction, one.flatten(), dim=0))
        for name, one in vectors(target).items()
    }


def _moved(target: Target, by: Mapping[str, torch.Tensor]) -> SoftPrompt:
    rows = _stacked(target.kept.initial, target)
    if by:
        rows = rows + torch.stack([*by.values()]).mean(0)
    return SoftPrompt(dict(zip(target.parts, rows.chunk(len(target.parts)), strict=True)))


def _averaged(sources: list[SourcePrompt], target: Target) -> SoftPrompt:
    return SoftPrompt(
        {part: torch.stack([one.on(part).average() for one in sources]).mean(0) for part in target.parts}
    )


def _stacked(prompt: SoftPrompt, target: Target) -> torch.Tensor:
    return torch.cat([prompt.tensors[part] for part in target.parts])


def _ignore(*_: object) -> None: ...
