"""The teachers of several tasks, each a plain soft prompt that changes no more, and what they say of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.base_model.layers.reading import LAST
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.parameters.source import SourceParameters
from caikit_pt.tuning.losses import Lessons, step_for

if TYPE_CHECKING:
    from caikit_pt.base_model.training.step import Step

# Of keys and values of prompts, no more bytes are kept from one update to the next.
_MOST_KEPT = 2**29


class Teaching:
    """The teachers' `prompts`, one for each task, and how much of what they say counts.

    What a base model shares between rows of a prompt is computed once for all updates, where there is room.
    """

    def __init__(
        self, base: BaseModel, prompts: Sequence[PromptTensors], parameters: SourceParameters
    ) -> None:
        self._base, self._prompts, self._parameters = base, prompts, parameters
        last = base.checkpoint.layers
        self._layers = [LAST if layer == last else layer for layer in parameters.state_layers]
        self._kept = base.training.step(prompts) if self._fits else None

    def lessons(self, tasks: Sequence[int], batch: TrainingBatch) -> Lessons:
        """Those of the rows of `batch`, which are behind the prompts of `tasks`."""
        step, prompts, teachers = self._step(tasks, batch)
        return Lessons(
            step,
            prompts,
            tokens=self._parameters.distillation_weight,
            temperature=self._parameters.distillation_temperature,
            states=self._parameters.state_weight,
            layers=self._layers,
            teachers=teachers,
        )

    def _step(
        self, tasks: Sequence[int], batch: TrainingBatch
    ) -> tuple[Step, Sequence[int], Sequence[PromptTensors]]:
        """A step with the prompts of `tasks`, their numbers there, and all that it has."""
        if self._kept and all(batch.sources):
            return self._kept, tasks, self._prompts
        own = [self._prompts[task] for task in tasks]
        return step_for(self._base, own, batch), range(len(tasks)), own

    @property
    def _fits(self) -> bool:
        """Whether what is shared, keys and values of all prompts in every layer, may be kept."""
        if not self._base.training.trains_packed:
            return True  # nothing is shared
        weights, width = self._base.weights, self._base.checkpoint.hidden_size
        positions = sum(len(tensor) for prompt in self._prompts for tensor in prompt.values())
        return 2 * positions * weights.layers * width * weights.dtype.itemsize <= _MOST_KEPT
