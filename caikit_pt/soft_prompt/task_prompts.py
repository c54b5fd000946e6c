"""The soft prompts of several tasks while they are trained together: rows P that all share, and u, v of each.

The prompt of task k is P times, element by element, u_k v_k (Wang et al. 2023, arXiv 2303.02861). Shapes: N
tasks, R the rank of their matrices, and S sides with P virtual tokens each of hidden size H, one side behind
the other as in a `SourcePrompt`. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.row import PromptTensors
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SIDES, SourcePrompt

if TYPE_CHECKING:
    import torch


class TaskPrompts:
    """Those of so many `tasks`, all of which begin as exactly `initial`.

    Of the first rank u and v are ones. The others have u of zeros, which leaves the product as it is, and v
    that is drawn from N(0, 1), so that u has a gradient from the first update on, and v from the second.
    """

    def __init__(
        self,
        initial: SoftPrompt,
        tasks: int,
        ranks: int,
        parameters: TuningParameters,
        generator: torch.Generator,
    ) -> None:
        """`generator` is the training's, on the CPU."""
        import torch

        self._parts = [side for side in SIDES if side in initial.tensors]
        self.shared = torch.cat([initial.tensors[part] for part in self._parts]).requires_grad_()
        count, width = self.shared.shape
        columns, rows = torch.zeros(tasks, count, ranks), torch.ones(tasks, ranks, width)
        columns[:, :, 0] = 1
        rows[:, 1:] = torch.randn(tasks, ranks - 1, width, generator=generator)
        self.columns, self.rows = (
            tensor.to(self.shared.device).requires_grad_() for tensor in (columns, rows)
        )
        self._rates = parameters.learning_rate, parameters.task_learning_rate

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is trained: P [S·P, H], u [N, S·P, R] and v [N, R, H]."""
        return self.shared, self.columns, self.rows

    def prompts(self, tasks: Sequence[int]) -> list[PromptTensors]:
        """Of each of `tasks` the prompt [P, H] of each side as it is now, differentiable in what is
        trained."""
        import torch

        sides = len(self._parts)
        # Picked one by one: a list of indices would have to be sent to a device.
        columns, rows = (torch.stack([own[task] for task in tasks]) for own in (self.columns, self.rows))
        matrices = columns @ rows
        return [dict(zip(self._parts, whole.chunk(sides), strict=True)) for whole in (self.shared * matrices)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What an optimiser moves: the shared rows, and what each task has, with learning rates apart."""
        rate, of_tasks = self._rates
        return [{"params": [self.shared], "lr": rate}, {"params": [self.columns, self.rows], "lr": of_tasks}]

    def finished(self, names: Sequence[str]) -> SourcePrompt:
        """What they are now, apart from every gradient, as a source whose tasks have `names`."""
        shared, columns, rows = (tensor.detach().cpu().clone() for tensor in self.tensors)
        return SourcePrompt("", shared, columns, rows, len(self._parts), tuple(names))
