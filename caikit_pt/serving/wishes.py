"""What the requests of a batch want of one pass: said before it, answered in one copy from the device.

A free answer wants its next token, one that is a label the shares of its choices; either may want to know
what tokens are worth. Nothing here makes the host wait but the one copy at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.parcel import Parcel, fetched
from caikit_pt.serving.request import Request, Worth
from caikit_pt.serving.sampling import Sampling

_NOTHING: Mapping[int, Worth] = MappingProxyType({})


@dataclass(slots=True)
class Told:
    """What one request is told: its token, or the log-probabilities of its choices among themselves; and
    what tokens that it asked for are worth. Nothing of it counts where its logits aren't `finite`."""

    finite: bool = True
    token: int | None = None
    shares: Sequence[float] = ()
    worths: Mapping[int, Worth] = field(default_factory=lambda: _NOTHING)


class Wishes:
    """Of `requests`, in the order of the rows of the logits that will be read."""

    def __init__(self, requests: Sequence[Request], parcel: Parcel, kept: Sampling | None = None) -> None:
        """`kept`: how tokens were picked before; it goes on where it fits."""
        self._requests = requests
        self._free: list[int] = []
        self._choosing: list[int] = []
        self._asking: list[int] = []  # what their next tokens are worth
        self._asked: list[tuple[int, int]] = []  # what tokens are worth that are known already
        for row, each in enumerate(requests):
            self._sort(row, each)
        samplers = [requests[row].sampler for row in self._free]
        self.sampling = kept if kept and kept.fits(samplers) else Sampling(samplers, parcel)
        self.sampling.prepare(parcel)
        if len(self._free) < len(requests):
            self._free_rows = parcel.add(torch.tensor(self._free, dtype=torch.long))
        if self._choosing:
            self._want_shares(parcel)
        if self._asked or self._asking:
            self._want_worths(parcel)

    def _want_shares(self, parcel: Parcel) -> None:
        choices = [self._requests[row].choices for row in self._choosing]
        self._counts = list(map(len, choices))
        ids, beyond = _padded(choices)
        self._ids, self._beyond = parcel.add(ids), parcel.add(beyond)
        self._choosing_rows = parcel.add(torch.tensor(self._choosing))

    def _want_worths(self, parcel: Parcel) -> None:
        """Of tokens that are known, and of those that will be picked."""
        self._worth_rows = parcel.add(torch.tensor([row for row, _ in self._asked] + self._asking))
        self._worth_ids = parcel.add(torch.tensor([token for _, token in self._asked], dtype=torch.long))
        asking = [*(row for row, _ in self._asked), *self._asking]
        self._top = max(self._requests[row].parameters.top_tokens for row in asking)
        among_free = [self._free.index(row) for row in self._asking]
        self._asking_rows = parcel.add(torch.tensor(among_free, dtype=torch.long))

    def _sort(self, row: int, request: Request) -> None:
        if request.search is None:
            self._free.append(row)
            if request.describes_by_logits:
                self._asking.append(row)
            return
        if request.is_at_a_choice:
            self._choosing.append(row)
        self._asked += [(row, token) for token in request.asked_of_logits]

    def read(self, logits: Tensor) -> list[Told]:
        """What each request is told of its row of `logits` [B, V] (float32)."""
        # Nan and infinity are the largest of whatever they are among.
        wanted: list[Tensor] = [logits.amax(dim=-1)]
        if self._free:
            everybody = len(self._free) == len(self._requests)
            wanted.append(self.sampling.pick(logits if everybody else logits[self._free_rows()]))
        if self._choosing:
            chosen = logits[self._choosing_rows()].gather(1, self._ids()).double()
            wanted.append(chosen.masked_fill(self._beyond(), -math.inf).log_softmax(dim=-1))
        if self._asked or self._asking:
            ids = self._worth_ids()
            if self._asking:
                ids = torch.cat([ids, wanted[1][self._asking_rows()]])
            wanted += worths_of(logits[self._worth_rows()], ids, self._top)
        # The one time that the host waits for a step.
        return self._told([each.tolist() for each in fetched(wanted)])

    def _told(self, read: list[Any]) -> list[Told]:
        parts = iter(read)
        told = [Told(finite=math.isfinite(largest)) for largest in next(parts)]
        if self._free:
            for row, token in zip(self._free, next(parts), strict=True):
                told[row].token = int(token)
        if self._choosing:
            for row, count, each in zip(self._choosing, self._counts, next(parts), strict=True):
                told[row].shares = each[:count]
        if self._asked or self._asking:
            asked = [*self._asked, *((row, told[row].token or 0) for row in self._asking)]
            found: list[dict[int, Worth]] = [{} for _ in told]
            for (row, token), worth in zip(asked, read_worths(parts, self._top), strict=True):
                found[row][token] = worth
            for each_told, worths in zip(told, found, strict=True):
                each_told.worths = worths
        return told


def worths_of(logits: Tensor, tokens: Tensor, top: int) -> list[Tensor]:
    """Log-probability [n] (float32) and rank [n] (int64) of a token [n] in each row of `logits` [n, V].

    With a `top` also log-probabilities [n, top] (float32) and ids [n, top] (int64) of so many likeliest.
    """
    of_them, logprobs = logits.gather(1, tokens[:, None]), logits.log_softmax(dim=-1)
    found = [logprobs.gather(1, tokens[:, None])[:, 0], (logits > of_them).sum(dim=-1) + 1]
    return [*found, *logprobs.topk(min(top, logits.shape[1]), dim=-1)] if top else found


def read_worths(parts: Iterator[Any], top: int) -> list[Worth]:
    """What `worths_of` has found, as lists, the next of `parts`."""
    logprobs, ranks = next(parts), next(parts)
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(logprobs)
    if top:
        values, ids = next(parts), next(parts)
        tops = [
            tuple((int(id), value) for id, value in zip(*row, strict=True))
            for row in zip(ids, values, strict=True)
        ]
    rows = zip(logprobs, ranks, tops, strict=True)
    return [Worth(logprob, int(rank), top_ones) for logprob, rank, top_ones in rows]


def _padded(choices: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Choices as ids [n, most], and which of these are beyond the row's own."""
    most = max(map(len, choices))
    ids = torch.tensor([[*row, *[row[0]] * (most - len(row))] for row in choices])
    counts = torch.tensor(list(map(len, choices)))[:, None]
    return ids, torch.arange(most).expand(len(choices), -1) >= counts
