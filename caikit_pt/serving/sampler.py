"""The next tokens of many rows from their logits, each by its own parameters and random numbers.

The order is TGIS's: repetition penalty, growing end score, minimum length, temperature, top_k, top_p,
typical_p. Each is what transformers' processor of that name does, for all rows that ask for it at once.
A draw takes one number of the row's own generator, so that a seed gives the same answer in any company.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from caikit_pt.parameters.generation import GenerationParameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LARGEST_EXPONENT = 30.0


class Sampler:
    """How one row's tokens are picked. `seen` are the ids that a repetition penalty counts from."""

    def __init__(
        self, parameters: GenerationParameters, seen: Sequence[int], end_ids: frozenset[int]
    ) -> None:
        self.parameters = parameters
        self.seen = list(seen)
        self.end_ids = sorted(end_ids)
        self._given = len(self.seen)
        self._generator: torch.Generator | None = None

    @property
    def picked(self) -> int:
        """Tokens picked so far."""
        return len(self.seen) - self._given

    def draw(self) -> float:
        """The row's next random number in [0, 1)."""
        import torch

        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.parameters.seed & (2**63 - 1))
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    @property
    def penalises(self) -> bool:
        """Whether what was there before is less likely to come again."""
        return self.parameters.repetition_penalty not in (0, 1)

    @property
    def push(self) -> float:
        """How many times its size the end's score grows by now.

        `factor ** tokens - 1`; the power is capped, for beyond it nothing but the end is left anyway.
        """
        decay = self.parameters.exponential_decay
        beyond = self.picked - decay.start if decay else 0
        if decay is None or beyond <= 0:
            return 0.0
        return math.exp(min(beyond * math.log(decay.factor), _LARGEST_EXPONENT)) - 1

    @property
    def must_go_on(self) -> bool:
        """Whether the answer may not end yet."""
        return self.picked < self.parameters.min_new_tokens


def pick(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row from its logits [B, V] (float32), and it is remembered."""
    scores = _processed(logits, samplers)
    tokens = scores.argmax(dim=-1)
    drawing = [row for row, sampler in enumerate(samplers) if sampler.parameters.samples]
    if drawing:
        tokens[drawing] = _drawn(scores[drawing], [samplers[row] for row in drawing])
    # The one transfer of a step from a GPU.
    picked: list[int] = tokens.tolist()
    for sampler, token in zip(samplers, picked, strict=True):
        sampler.seen.append(token)
    return picked


def _processed(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """The scores by what counts for either decoding method."""
    if not any(sampler.penalises or sampler.push or sampler.must_go_on for sampler in samplers):
        return logits
    scores = logits.clone()
    _penalise(scores, samplers)
    for row, sampler in enumerate(samplers):
        ends = sampler.end_ids
        if sampler.push:
            scores[row, ends] += scores[row, ends].abs() * sampler.push
        if sampler.must_go_on:
            scores[row, ends] = -math.inf
    return scores


def _penalise(scores: Tensor, samplers: Sequence[Sampler]) -> None:
    """Divides positive scores of what was seen, and multiplies negative ones (Keskar 2019), in place."""
    import torch

    penalised = [(row, sampler) for row, sampler in enumerate(samplers) if sampler.penalises]
    if not penalised:
        return
    rows = torch.tensor([row for row, sampler in penalised for _ in sampler.seen])
    ids = torch.tensor([token for _, sampler in penalised for token in sampler.seen])
    penalties = torch.tensor([sampler.parameters.repetition_penalty for sampler in samplers])
    rows, ids, penalties = (tensor.to(scores.device) for tensor in (rows, ids, penalties))
    seen = scores[rows, ids]
    by = penalties[rows].to(seen.dtype)
    # A token that was seen twice is written twice, the same.
    scores[rows, ids] = torch.where(seen < 0, seen * by, seen / by)


def _drawn(scores: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """A token [B] of each row by its distribution."""
    import torch

    parameters = [sampler.parameters for sampler in samplers]
    # A penalty or a temperature near zero makes scores infinite; the largest stay the largest.
    largest = torch.finfo(scores.dtype).max
    temperatures = scores.new_tensor([each.temperature for each in parameters])[:, None]
    scores = (scores / temperatures).clamp(max=largest).nan_to_num(nan=-math.inf, neginf=-math.inf)
    scores = _kept(scores, [float(each.top_k) for each in parameters], _top_k)
    scores = _kept(scores, [each.top_p % 1 for each in parameters], _top_p)
    scores = _kept(scores, [each.typical_p % 1 for each in parameters], _typical_p)
    # Sums of float32 over a large vocabulary would be off by more than a rare token's probability.
    sums = scores.double().softmax(dim=-1).cumsum(dim=-1)
    draws = torch.tensor([sampler.draw() for sampler in samplers], dtype=torch.float64).to(scores.device)
    return torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]


def _kept(scores: Tensor, values: Sequence[float], dropped: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The scores, -inf where `dropped` says so, in the rows whose value isn't 0."""
    rows = [row for row, value in enumerate(values) if value]
    if not rows:
        return scores
    some = scores[rows]
    limits = some.new_tensor([values[row] for row in rows])[:, None]
    scores = scores.clone()
    scores[rows] = some.masked_fill(dropped(some, limits), -math.inf)
    return scores


def _top_k(scores: Tensor, k: Tensor) -> Tensor:
    """What is below the k-th largest."""
    largest = scores.topk(int(k.max().clamp(max=scores.shape[-1])), dim=-1).values
    return scores < largest.gather(1, k.long().clamp(max=largest.shape[-1]) - 1)


def _top_p(scores: Tensor, p: Tensor) -> Tensor:
    """The least likely that together have at most 1 - p, but for the likeliest one."""
    ascending, order = scores.sort(dim=-1)
    dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    dropped[:, -1] = False
    return dropped.scatter(1, order, dropped)


def _typical_p(scores: Tensor, p: Tensor) -> Tensor:
    """What is farther from the entropy than those that together have p (Meister et al. 2022)."""
    logs = scores.log_softmax(dim=-1)
    entropy = -(logs * logs.exp()).nansum(dim=-1, keepdim=True)
    distances, order = (-logs - entropy).abs().sort(dim=-1)
    sums = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (sums < p).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    return (-logs - entropy).abs() > distances.gather(1, last)
