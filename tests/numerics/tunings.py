"""Small tunings, and a look over the shoulder of their optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.model import BaseModel
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import Start
from caikit_pt.tuning.plan import TuningPlan, make_plan

from .answers import words

VIRTUAL_TOKENS = 7


def records(count: int) -> list[GenerationTrainRecord]:
    """`count` records, no two of the same lengths in a row."""
    return [
        GenerationTrainRecord(
            input=words(1 + 5 * index % 9, seed=2 * index),
            output=words(1 + 3 * index % 7, seed=2 * index + 1),
        )
        for index in range(count)
    ]


def small_plan(
    base: BaseModel, settings: Settings | None = None, examples: int = 5, **request: Any
) -> TuningPlan:
    """A plan for `base` of a few updates; `request` says what is asked otherwise."""
    asked = {
        "base_model": base.checkpoint.name,
        "num_virtual_tokens": VIRTUAL_TOKENS,
        "num_epochs": 2,
        "batch_size": 3,
        "learning_rate": 0.01,
        "max_source_length": 40,
        "max_target_length": 40,
    }
    return make_plan(asked | request, records(examples), None, settings or Settings(), base)


def start_of(plan: TuningPlan, base: BaseModel) -> Start:
    """What the initialisers get in a tuning of `plan`."""
    generator = torch.Generator().manual_seed(plan.parameters.seed)
    return Start(base, plan.parameters, generator, plan.source)


def write_source(
    root: Path, name: str, shared: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor
) -> Settings:
    """A source prompt as peft saves one, and the settings of a server that finds it."""
    directory = root / name
    directory.mkdir(parents=True)
    tensors = {"prompt_embeddings": shared, "prefix_task_cols": columns, "prefix_task_rows": rows}
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
    )
    return Settings(source_prompt_base=str(root))


@dataclass(slots=True)
class Watched:
    """What an optimiser did: learning rates and gradients of each step, and what it moves."""

    learning_rates: list[list[float]] = field(default_factory=list)
    gradients: list[list[torch.Tensor]] = field(default_factory=list)
    initial: list[list[torch.Tensor]] = field(default_factory=list)
    _optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one that was at work."""
        (optimizer,) = set(self._optimizers)
        return optimizer

    @property
    def groups(self) -> list[list[torch.Tensor]]:
        """The parameters as they are now, by group."""
        return [group["params"] for group in self.optimizer.param_groups]

    @property
    def moments(self) -> list[Mapping[str, torch.Tensor]]:
        """What the optimiser remembers of each parameter."""
        return list(self.optimizer.state.values())

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Called before each step."""
        self._optimizers.append(optimizer)
        self.learning_rates.append([float(group["lr"]) for group in optimizer.param_groups])
        parameters = [tensor for group in self.groups for tensor in group]
        self.gradients.append([tensor.grad.clone() for tensor in parameters if tensor.grad is not None])
        self.initial = self.initial or _copies(self.groups)

    def distances(self) -> list[float]:
        """How far the farthest number of each group has moved."""
        return [
            max(float((new - old).detach().abs().max()) for old, new in zip(*pair, strict=True))
            for pair in zip(self.initial, self.groups, strict=True)
        ]


@contextmanager
def watched_optimizer() -> Iterator[Watched]:
    """Watches the one optimiser that steps inside."""
    watched = Watched()
    handle = register_optimizer_step_pre_hook(watched.before)
    try:
        yield watched
    finally:
        handle.remove()


def _copies(groups: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[tensor.detach().clone() for tensor in group] for group in groups]
