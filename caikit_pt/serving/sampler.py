"""The next token of one row from its logits, by that row's own parameters and random numbers.

The processors are transformers'. Their order: repetition penalty, growing end score, minimum
length, temperature, top_k, top_p, typical_p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.generation import GenerationParameters

if TYPE_CHECKING:
    import torch

_LARGEST_EXPONENT = 30.0


class Sampler:
    """Picks tokens for one row. `seen` are the ids that a repetition penalty counts from."""

    def __init__(
        self, parameters: GenerationParameters, seen: Sequence[int], end_ids: frozenset[int]
    ) -> None:
        import torch

        self._parameters = parameters
        self._seen = list(seen)
        self._given = len(self._seen)
        self._end_ids = sorted(end_ids)
        self._processors = _processors(parameters)
        self._generator = torch.Generator().manual_seed(parameters.seed & (2**63 - 1))

    def pick(self, logits: torch.Tensor) -> int:
        """The next token from its logits [V] (float32), and it is remembered."""
        import torch

        ids = torch.tensor([self._seen], dtype=torch.long, device=logits.device)
        scores = logits[None].clone()
        for processor in self._processors:
            scores = processor(ids, scores)
        self._push_the_end(scores)
        if len(self._seen) - self._given < self._parameters.min_new_tokens:
            scores[:, self._end_ids] = -torch.inf
        if self._parameters.samples:
            for warper in _warpers(self._parameters):
                scores = warper(ids, scores)
            # A penalty or a temperature near zero makes scores infinite; the largest stay the largest.
            scores = scores.clamp(max=torch.finfo(scores.dtype).max).nan_to_num(nan=-torch.inf)
            probabilities = scores[0].softmax(dim=-1).cpu()
            token = int(torch.multinomial(probabilities, 1, generator=self._generator))
        else:
            token = int(scores[0].argmax())
        self._seen.append(token)
        return token

    def _push_the_end(self, scores: torch.Tensor) -> None:
        """Adds abs(score) * (factor ** tokens - 1) to the end tokens, as TGIS does, in place.

        The factor's power is capped: beyond it nothing but the end is left anyway.
        """
        decay = self._parameters.exponential_decay
        beyond = len(self._seen) - self._given - decay.start if decay else 0
        if decay and beyond > 0:
            power = math.exp(min(beyond * math.log(decay.factor), _LARGEST_EXPONENT))
            scores[:, self._end_ids] += scores[:, self._end_ids].abs() * (power - 1)


def _processors(parameters: GenerationParameters) -> list[Any]:
    """What changes scores under either decoding method."""
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    if parameters.repetition_penalty in (0, 1):
        return []
    return [RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty)]


def _warpers(parameters: GenerationParameters) -> list[Any]:
    """What shapes the distribution that SAMPLING draws from."""
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
    )

    warpers: list[Any] = []
    if parameters.temperature != 1:
        warpers.append(TemperatureLogitsWarper(parameters.temperature))
    if parameters.top_k:
        warpers.append(TopKLogitsWarper(parameters.top_k))
    if 0 < parameters.top_p < 1:
        warpers.append(TopPLogitsWarper(parameters.top_p))
    if 0 < parameters.typical_p < 1:
        warpers.append(TypicalLogitsWarper(parameters.typical_p))
    return warpers
