"""What is asked: requests with texts, soft prompts, and how many tokens are wanted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench.serving.checkpoint import FIRST_WORD
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Load:
    """`requests` at once, with texts of `shortest` to `longest` tokens; each answer has `new` tokens.

    Soft prompts are made of embeddings of ordinary tokens: who takes no embeddings can be given the
    same prompts as tokens, and has to give the same answers.
    """

    # The model's own embeddings [V, H].
    words: torch.Tensor = field(compare=False, repr=False)
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
        # Not the number itself: the seeds -1 and 1 are one.
        rng = random.Random(f"texts of round {self.round}")
        lengths = [rng.randint(self.shortest, self.longest) for _ in range(self.requests)]
        return [self._draw(rng, length) for length in lengths]

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """The tokens that each prompt is made of; the same in all rounds."""
        rng = random.Random("prompts")
        return [self._draw(rng, self.virtual_tokens) for _ in range(self.prompts)]

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """Of each prompt, [P, H] float32."""
        return [self.words[ids].float().cpu() for ids in self.prompt_ids]

    @property
    def parameters(self) -> GenerationParameters:
        """Greedy, and never shorter than asked for."""
        return GenerationParameters(
            max_new_tokens=self.new, min_new_tokens=self.new, preserve_input_text=False
        )

    def of_round(self, number: int) -> Load:
        """As many requests with other texts of the same lengths or so, ready to be asked."""
        load = replace(self, round=number)
        _ = load.texts, load.tensors
        return load

    def prompt(self, request: int, part: str) -> SoftPrompt:
        """The prompt of a request, by its number."""
        return SoftPrompt({part: self.tensors[request % self.prompts]})

    def _draw(self, rng: random.Random, count: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, len(self.words)) for _ in range(count)]
