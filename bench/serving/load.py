"""What is asked: requests with texts, soft prompts, and how many tokens are wanted."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench.serving.checkpoint import FIRST_WORD
from bench.training.shapes import Shape
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt

if TYPE_CHECKING:
    import torch

_SCALE = 0.02  # of the numbers of a prompt, as of the random embeddings


@dataclass(frozen=True)
class Load:
    """`requests` at once, with texts of `shortest` to `longest` tokens; each answer has `new` tokens."""

    shape: Shape
    requests: int = 32
    shortest: int = 30
    longest: int = 60
    new: int = 20
    virtual_tokens: int = 20
    prompts: int = 1
    # Other texts in each round: who keeps what he has read of texts gains nothing.
    round: int = 0

    @property
    def title(self) -> str:
        """In words."""
        prompts = "one prompt" if self.prompts == 1 else f"{self.prompts} prompts"
        return (
            f"{self.requests} at once, text {self.shortest}-{self.longest}, {self.new} new, "
            f"{prompts} of {self.virtual_tokens}"
        )

    @property
    def tokens(self) -> int:
        """New ones, of all answers."""
        return self.requests * self.new

    @cached_property
    def texts(self) -> list[list[int]]:
        """Token ids of each text."""
        rng = random.Random(self.round)
        lengths = [rng.randint(self.shortest, self.longest) for _ in range(self.requests)]
        return [[rng.randrange(FIRST_WORD, self.shape.vocabulary) for _ in range(n)] for n in lengths]

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """Of each prompt, [P, H] float32."""
        import torch

        generator = torch.Generator().manual_seed(1)
        size = (self.virtual_tokens, self.shape.width)
        return [torch.randn(size, generator=generator) * _SCALE for _ in range(self.prompts)]

    @property
    def parameters(self) -> GenerationParameters:
        """Greedy, and never shorter than asked for."""
        return GenerationParameters(
            max_new_tokens=self.new, min_new_tokens=self.new, preserve_input_text=False
        )

    def of_round(self, number: int) -> Load:
        """As many requests with other texts of the same lengths or so."""
        return replace(self, round=number)

    def prompt(self, request: int, part: str) -> SoftPrompt:
        """The prompt of a request, by its number."""
        return SoftPrompt({part: self.tensors[request % self.prompts]})
