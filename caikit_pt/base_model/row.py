"""Rows of a batch as values: token ids, and the soft prompts in front of them.

Letters in shapes, here and in all of base_model: B rows, P virtual tokens, T positions, K target positions, H
hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

# By ENCODER or DECODER, the rows [P, H] that go in front of that side's input.
PromptTensors: TypeAlias = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Row:
    """One text to continue, with the soft prompt in front of it, and its answer as far as there is one."""

    prompt: PromptTensors
    ids: Sequence[int]
    answer: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Token ids of B examples. Targets end with the end token and hold no token of the source.

    `prompts` says for each row which of a step's soft prompts stands in front of it; empty: the first.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    prompts: Sequence[int] = ()

    @property
    def target_tokens(self) -> int:
        """Tokens that count in the loss."""
        return sum(map(len, self.targets))

    @property
    def prompt_of_rows(self) -> Sequence[int]:
        """The index of its soft prompt for each row."""
        return self.prompts or [0] * len(self.sources)


def prompt_length(prompt: PromptTensors, part: str) -> int:
    """Virtual tokens that `prompt` has on one side."""
    return int(prompt[part].shape[0]) if part in prompt else 0
