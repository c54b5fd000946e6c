"""What one stack of a model reads of some rows: soft prompts and embedded tokens as one padded tensor.

All of it goes to the device in the parcel of the pass: tokens of all rows in a line, each soft prompt once,
and where in these each position is found.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.parcel import Parcel


class Inputs:
    """Rows `[prompt][text]` as [B, T, H], padded in front where they are aligned `at_end`, else behind."""

    def __init__(
        self,
        weights: FrozenWeights,
        parcel: Parcel,
        rows: Sequence[tuple[Tensor | None, Sequence[int]]],
        at_end: bool,
    ) -> None:
        """A row is its soft prompt [P, H], if it has one, and its token ids."""
        self._weights = weights
        prompts = {id(prompt): prompt for prompt, _ in rows if prompt is not None}
        begins, begin = {}, 1  # 0 is the row of zeros that padding is made of
        for key, own in prompts.items():
            begins[key] = begin
            begin += len(own)
        places = []
        for prompt, ids in rows:
            first = begins.get(id(prompt), 0)
            in_front = range(first, first + (0 if prompt is None else len(prompt)))
            places.append([*in_front, *range(begin, begin + len(ids))])
            begin += len(ids)
        self.lengths = list(map(len, places))
        longest = max(self.lengths)
        padded = [_padded(each, longest, at_end) for each in places]
        self._prompts = [parcel.add(prompt) for prompt in prompts.values()]
        self._ids = parcel.add(torch.tensor([token for _, ids in rows for token in ids], dtype=torch.long))
        self._places = parcel.add(torch.tensor(padded))

    def embeddings(self) -> Tensor:
        """[B, T, H], zero where there is padding; once the parcel was sent."""
        text = self._weights.embed(self._ids())
        parts = [text.new_zeros(1, text.shape[1]), *(each().to(text.dtype) for each in self._prompts), text]
        return torch.nn.functional.embedding(self._places(), torch.cat(parts))

    def mask(self) -> Tensor:
        """[B, T] (int64)."""
        return (self._places() > 0).long()


def _padded(places: list[int], longest: int, at_end: bool) -> list[int]:
    missing = [0] * (longest - len(places))
    return [*missing, *places] if at_end else [*places, *missing]
