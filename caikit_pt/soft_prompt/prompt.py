"""The soft prompt: rows of the size of a word embedding in front of a model's input.

While it is tuned it is a `TrainablePrompt` of some kind (`trainable`); afterwards always a `SoftPrompt`.
Shapes: P virtual tokens, H hidden size. Everything is float32, whatever the model's data type:
in half precision the updates get lost and the prompt diverges (peft#68).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.tuning import TuningParameters

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """A finished soft prompt: for ENCODER, DECODER or both, a float32 tensor [P, H] on the CPU."""

    tensors: Mapping[str, torch.Tensor]

    @property
    def num_virtual_tokens(self) -> int:
        """P, which is the same on both sides."""
        return int(next(iter(self.tensors.values())).shape[0])

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(next(iter(self.tensors.values())).shape[1])

    def to(self, device: torch.device) -> SoftPrompt:
        """The same prompt on `device`."""
        return SoftPrompt({part: tensor.to(device) for part, tensor in self.tensors.items()})


class TrainablePrompt(ABC):
    """A soft prompt with parameters that an optimiser can move."""

    @abstractmethod
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The prompt [P, H] of each side as it is now, differentiable in the parameters."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser moves, each group with its learning rate."""

    def finished(self) -> SoftPrompt:
        """What the prompt is now, apart from every gradient."""
        return SoftPrompt({part: tensor.detach().cpu().clone() for part, tensor in self.tensors().items()})


class PlainPrompt(TrainablePrompt):
    """Prompt tuning (Lester et al. 2021): the rows themselves are the parameters."""

    def __init__(self, initial: SoftPrompt, parameters: TuningParameters) -> None:
        self._rows = {part: tensor.clone().requires_grad_() for part, tensor in initial.tensors.items()}
        self._learning_rate = parameters.learning_rate

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._rows

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._rows.values()), "lr": self._learning_rate}]


class MultitaskPrompt(TrainablePrompt):
    """Multitask prompt tuning (Wang et al. 2023): the rows P times, element by element, u vᵀ.

    u [P, 1] and v [1, H] have a learning rate of their own. They start as ones, so that the
    product starts as exactly the initial prompt: drawn near zero, as peft draws them, they would
    erase it. What a source prompt's task matrices have to say is in the initial rows already.
    """

    def __init__(self, initial: SoftPrompt, parameters: TuningParameters) -> None:
        self._shared = {part: tensor.clone().requires_grad_() for part, tensor in initial.tensors.items()}
        self._columns = {
            part: tensor.new_ones(tensor.shape[0], 1).requires_grad_()
            for part, tensor in initial.tensors.items()
        }
        self._rows = {
            part: tensor.new_ones(1, tensor.shape[1]).requires_grad_()
            for part, tensor in initial.tensors.items()
        }
        self._learning_rate = parameters.learning_rate
        self._task_learning_rate = parameters.task_learning_rate

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {
            part: shared * (self._columns[part] * self._rows[part]) for part, shared in self._shared.items()
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        task = [*self._columns.values(), *self._rows.values()]
        return [
            {"params": list(self._shared.values()), "lr": self._learning_rate},
            {"params": task, "lr": self._task_learning_rate},
        ]
