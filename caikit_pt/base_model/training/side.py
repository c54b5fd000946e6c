"""How a family is trained on: losses of batches under soft prompts, and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import TypeAlias

from caikit_pt.base_model.budget import budget_for
from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.linear import builds_code, settle_training
from caikit_pt.base_model.layers.reading import reads
from caikit_pt.base_model.loading.memory import free_memory_of
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.base_model.training.memory_budget import MemoryBudget
from caikit_pt.base_model.training.step import PaddedStep, Step
from caikit_pt.base_model.training.targets import Targets

# Numbers that a layer keeps of a position for the gradient, by its width H: of a Llama's norms, queries,
# keys, values, answer and three inner products about so many.
_KEPT = 16
# Of the free memory, so much may they take.
_SHARE_TO_KEEP = 0.7

Check: TypeAlias = "Callable[[TrainingSide], bool]"


def _room(weights: FrozenWeights, width: int) -> int | None:
    """Positions that an accelerator could keep all activations of; a CPU's passes are short anyway."""
    if weights.device.type == "cpu":
        return None
    each = weights.layers * width * _KEPT * weights.dtype.itemsize
    return int(_SHARE_TO_KEEP * free_memory_of(str(weights.device))) // each


class TrainingSide(ABC):
    """What tuning asks of a base model."""

    def __init__(self, weights: FrozenWeights, text: TextSide, packs: Check) -> None:
        """`packs` tries whether packed rows are what padded ones are."""
        self.weights = weights
        self.text = text
        checkpoint, device = text.checkpoint, weights.device
        budget = budget_for(device.type, checkpoint.hidden_size, _room(weights, checkpoint.hidden_size))
        self.memory = MemoryBudget(checkpoint.name, device, budget)
        self._packs = packs

    def step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        """What is to be computed between two changes of `prompts`, the fastest way that is exact.

        Every source of every batch begins with the tokens `common`, and has more than these.
        """
        if self.trains_packed:
            return self.packed_step(prompts, common)
        return self.padded_step(prompts)

    def padded_step(self, prompts: Sequence[PromptTensors]) -> Step:
        """The plain way, right for every model: every row is padded to the longest of its batch."""
        return PaddedStep(self.padded_targets, prompts)

    @cached_property
    def trains_packed(self) -> bool:
        """Whether rows can be packed one behind another without padding: tried, not looked up."""
        settle_training(self.weights.model, self.text.checkpoint.name)
        return self._packs(self)

    @property
    def has_states(self) -> bool:
        """Whether the states in front of the output layer are known (`Targets.states`)."""
        return reads(self.weights.model)

    @cached_property
    def rounds_rows(self) -> bool:
        """Whether passes had better have few different numbers of positions."""
        return builds_code(self.weights.model)

    @abstractmethod
    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        """The fast way, for models that `trains_packed`."""

    @abstractmethod
    def padded_targets(
        self, prompts: Sequence[PromptTensors], batch: TrainingBatch, layers: Collection[int] = ()
    ) -> Targets:
        """What predicts the target tokens of `batch`, with the states of `layers`; a prompt for each row.

        Differentiable in the prompts; the model gets no gradient.
        """

    @abstractmethod
    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        """Positions that a model computes for a row, by the lengths of its source and its target."""
