"""The next token of one row from its logits, by that row's own parameters and random numbers.

The processors are transformers'. Their order: repetition penalty, growing end score, minimum
length, temperature, top_k, top_p, typical_p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.generation import GenerationParameters

if TYPE_CHECKING:
    import torch


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
        self._processors = _processors(parameters, self._given, self._end_ids)
        self._generator = torch.Generator().manual_seed(parameters.seed & (2**63 - 1))

    def pick(self, logits: torch.Tensor) -> int:
        """The next token from its logits [V] (float32), and it is remembered."""
        import torch

        ids = torch.tensor([self._seen], dtype=torch.long, device=logits.device)
        scores = logits[None].clone()
        for processor in self._processors:
            scores = processor(ids, scores)
        if len(self._seen) - self._given < self._parameters.min_new_tokens:
            scores[:, self._end_ids] = -torch.inf
        if self._parameters.samples:
            for warper in _warpers(self._parameters):
                scores = warper(ids, scores)
            probabilities = scores[0].softmax(dim=-1).cpu()
            token = int(torch.multinomial(probabilities, 1, generator=self._generator))
        else:
            token = int(scores[0].argmax())
        self._seen.append(token)
        return token


def _processors(parameters: GenerationParameters, given: int, end_ids: list[int]) -> list[Any]:
    """What changes scores under either decoding method."""
    from transformers.generation.logits_process import (
        ExponentialDecayLengthPenalty,
        RepetitionPenaltyLogitsProcessor,
    )

    processors: list[Any] = []
    if parameters.repetition_penalty not in (0, 1) and given >= 0:
        processors.append(RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty))
    if decay := parameters.exponential_decay:
        processors.append(ExponentialDecayLengthPenalty((decay.start, decay.factor), end_ids, given))
    return processors


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
