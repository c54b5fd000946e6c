"""The next tokens of many rows from their logits, each by its own parameters and random numbers.

The order is TGIS's: repetition penalty, growing end score, minimum length, temperature, top_k, top_p,
typical_p. Each is what transformers' processor of that name does, for all rows that ask for it at once.

What the rows ask for lies on the device for as long as they and their wishes stay the same; a step takes
there what changes in every step, and nothing in here makes the host wait. Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor

from caikit_pt.base_model.layers.parcel import Parcel, Sent
from caikit_pt.serving.sampler import Sampler


@dataclass(slots=True)
class _Limited:
    """Rows [n] whose scores are cut, and each one's limit [n, 1]."""

    dropped: Callable[[Tensor, Tensor, int], Tensor]
    rows: Sent
    limits: Sent
    largest: int


class Sampling:
    """How the tokens of B rows are picked, for as long as it `fits` them."""

    def __init__(self, samplers: Sequence[Sampler], parcel: Parcel) -> None:
        self.samplers = list(samplers)
        self._changing = [each for each in samplers if each.changes]
        self._state = list(map(_due, self._changing))
        self._parcel = parcel
        self._pushed = [row for row, each in enumerate(samplers) if each.push]
        self._pushed_ends = self._ends(self._pushed)
        self._held_ends = self._ends([row for row, each in enumerate(samplers) if each.must_go_on])
        self._penalised = [row for row, each in enumerate(samplers) if each.penalises]
        self._send_penalties()
        self._drawing = [row for row, each in enumerate(samplers) if each.parameters.samples]
        self._send_limits()

    def fits(self, samplers: Sequence[Sampler]) -> bool:
        """Whether these are its rows, and ask for nothing else than they did."""
        same = len(samplers) == len(self.samplers) and all(map(is_, samplers, self.samplers))
        return same and self._state == list(map(_due, self._changing))

    def prepare(self, parcel: Parcel) -> None:
        """Puts what changes in every step into the parcel of the next one."""
        if self._drawing:
            draws = [self.samplers[row].next_draw for row in self._drawing]
            self._draws = parcel.add(torch.tensor(draws, dtype=torch.float64)[:, None])
        if self._pushed:
            sizes = [self.samplers[row].push for row in self._pushed for _ in self.samplers[row].end_ids]
            self._pushes = parcel.add(torch.tensor(sizes, dtype=torch.float32))

    def pick(self, logits: Tensor) -> Tensor:
        """The next token [B] of each row from its logits [B, V] (float32), once the parcels were sent."""
        scores = self._processed(logits)
        tokens = scores.argmax(dim=-1)
        if self._drawing:
            rows = self._drawing_rows()
            tokens[rows] = self._drawn(scores[rows])
        if self._penalised:
            rows = self._penalised_rows()
            seen_rows, seen = self._seen
            self._seen = torch.cat([seen_rows, rows]), torch.cat([seen, tokens[rows]])
        return tokens

    # ---- what lies on the device ----

    def _ends(self, rows: Sequence[int]) -> tuple[Sent, Sent] | None:
        """Where in [B, V] the end tokens of `rows` are."""
        if not rows:
            return None
        return self._places([(row, token) for row in rows for token in self.samplers[row].end_ids])

    def _places(self, places: Sequence[tuple[int, int]]) -> tuple[Sent, Sent]:
        rows, ids = torch.tensor(places, dtype=torch.long).view(-1, 2).t().contiguous()
        return self._parcel.add(rows), self._parcel.add(ids)

    def _send_penalties(self) -> None:
        if not self._penalised:
            return
        add = self._parcel.add
        seen = [(row, token) for row in self._penalised for token in self.samplers[row].seen]
        self._sent_seen = self._places(seen)
        self._penalised_rows = add(torch.tensor(self._penalised))
        penalties = [each.parameters.repetition_penalty for each in self.samplers]
        self._penalties = add(torch.tensor(penalties, dtype=torch.float32))
        self._grown: tuple[Tensor, Tensor] | None = None

    @property
    def _seen(self) -> tuple[Tensor, Tensor]:
        """Rows and ids [N] of all that was seen in rows that are penalised for it."""
        if self._grown is None:
            rows, ids = self._sent_seen
            self._grown = rows(), ids()
        return self._grown

    @_seen.setter
    def _seen(self, places: tuple[Tensor, Tensor]) -> None:
        self._grown = places

    def _send_limits(self) -> None:
        if not self._drawing:
            return
        parameters = [self.samplers[row].parameters for row in self._drawing]
        self._drawing_rows = self._parcel.add(torch.tensor(self._drawing))
        self._temperatures = self._column([each.temperature for each in parameters])
        limits = (
            self._limited(_top_k, [float(each.top_k) for each in parameters]),
            self._limited(_top_p, [each.top_p % 1 for each in parameters]),
            self._limited(_typical_p, [each.typical_p % 1 for each in parameters]),
        )
        self._limits = [each for each in limits if each]

    def _limited(
        self, dropped: Callable[[Tensor, Tensor, int], Tensor], values: Sequence[float]
    ) -> _Limited | None:
        """The rows, of those that draw, whose value isn't 0."""
        rows = [row for row, value in enumerate(values) if value]
        if not rows:
            return None
        limits = self._column([values[row] for row in rows])
        return _Limited(dropped, self._parcel.add(torch.tensor(rows)), limits, int(max(values)))

    def _column(self, values: Sequence[float]) -> Sent:
        return self._parcel.add(torch.tensor(values, dtype=torch.float32)[:, None])

    # ---- what is computed there ----

    def _processed(self, logits: Tensor) -> Tensor:
        """The scores by what counts for either decoding method."""
        if not (self._penalised or self._pushed_ends or self._held_ends):
            return logits
        scores = logits.clone()
        if self._penalised:
            self._penalise(scores)
        if self._pushed_ends:
            ends = (self._pushed_ends[0](), self._pushed_ends[1]())
            before = scores[ends]
            scores[ends] = before + before.abs() * self._pushes()
        if self._held_ends:
            scores[self._held_ends[0](), self._held_ends[1]()] = -math.inf
        return scores

    def _penalise(self, scores: Tensor) -> None:
        """Divides positive scores of what was seen, and multiplies negative ones (Keskar 2019), in place."""
        rows, ids = self._seen
        seen, by = scores[rows, ids], self._penalties()[rows]
        # A token that was seen twice is written twice, the same.
        scores[rows, ids] = torch.where(seen < 0, seen * by, seen / by)

    def _drawn(self, scores: Tensor) -> Tensor:
        """A token of each row that draws by its distribution."""
        # A penalty or a temperature near zero makes scores infinite; the largest stay the largest.
        largest = torch.finfo(scores.dtype).max
        scores = scores / self._temperatures()
        scores = scores.clamp(max=largest).nan_to_num(nan=-math.inf, neginf=-math.inf)
        for each in self._limits:
            rows = each.rows()
            some = scores[rows]
            dropped = each.dropped(some, each.limits(), each.largest)
            scores = scores.clone()
            scores[rows] = some.masked_fill(dropped, -math.inf)
        # Sums of float32 over a large vocabulary would be off by more than a rare token's probability.
        sums = scores.double().softmax(dim=-1).cumsum(dim=-1)
        drawn = torch.searchsorted(sums, self._draws() * sums[:, -1:], right=True)[:, 0]
        # Of scores none of which is a number it would be a token that isn't there.
        return drawn.clamp(max=scores.shape[-1] - 1)


def _due(sampler: Sampler) -> tuple[bool, bool]:
    """What decides, beside who the rows are, on the tensors that are kept."""
    return bool(sampler.push), sampler.must_go_on


def _top_k(scores: Tensor, k: Tensor, largest: int) -> Tensor:
    """What is below the k-th largest; `largest` is the largest k."""
    most = scores.topk(min(largest, scores.shape[-1]), dim=-1).values
    return scores < most.gather(1, k.long().clamp(max=most.shape[-1]) - 1)


def _top_p(scores: Tensor, p: Tensor, _: int) -> Tensor:
    """The least likely that together have at most 1 - p, but for the likeliest one."""
    ascending, order = scores.sort(dim=-1)
    dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    dropped[:, -1:] = False
    return dropped.scatter(1, order, dropped)


def _typical_p(scores: Tensor, p: Tensor, _: int) -> Tensor:
    """What is farther from the entropy than those that together have p (Meister et al. 2022)."""
    logs = scores.log_softmax(dim=-1)
    entropy = -(logs * logs.exp()).nansum(dim=-1, keepdim=True)
    distances, order = (-logs - entropy).abs().sort(dim=-1)
    sums = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (sums < p).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    return (-logs - entropy).abs() > distances.gather(1, last)
