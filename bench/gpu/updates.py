"""Updates of a training as a job makes them: its learner, its optimiser, and no look at a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bench.training.case import Case
from bench.training.records import Record
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.tuning import resolve
from caikit_pt.soft_prompt.prompt import PlainPrompt, SoftPrompt
from caikit_pt.tuning.learner import Learner, gradients

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel

_UPDATES = 1000  # that the schedule is made for
# What a plan would decide by records, of which there are none here.
_ASKED = {"tuning_task": "generation", "validation_share": 0.0, "device": "", "torch_dtype": ""}


class Updates:
    """One soft prompt on `base`, whose records are those of `case`; each window has others."""

    def __init__(self, base: BaseModel, case: Case) -> None:
        self._base, self._case = base, case
        part, width = base.checkpoint.prompt_parts[0], base.checkpoint.hidden_size
        generator = torch.Generator().manual_seed(0)
        start = SoftPrompt({part: torch.randn(case.prompt, width, generator=generator) * 0.02})
        asked = {"base_model": case.shape.name, "output_model_types": (part,), **_ASKED}
        parameters = resolve(asked, {}, {})
        self.prompt = PlainPrompt(start.to(base.weights.device), parameters)
        self._learner = Learner(self.prompt, parameters, _UPDATES)

    def update(self, records: list[Record]) -> None:
        """One update by `records`."""
        self._learner.step(self.loss(records))

    def loss(self, records: list[Record]) -> torch.Tensor:
        """The mean loss of a target token; the prompt gets its gradient."""
        batch = TrainingBatch([record.source for record in records], [record.target for record in records])
        return gradients(self._base, [self._learner], [batch])[0]

    @property
    def positions(self) -> int:
        """Positions that a pass takes on at most, as far as has been found out."""
        return self._base.training.memory.budget.positions

    @property
    def gradient(self) -> torch.Tensor:
        """What the prompt got last."""
        (rows,) = self.prompt.tensors().values()
        assert rows.grad is not None
        return rows.grad.clone()
