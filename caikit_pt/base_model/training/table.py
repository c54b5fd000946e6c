"""All rows of soft prompts and of embedded tokens as one table, for rows of a batch to be picked from.

However many rows are put together, it is one embedding and one pick each way, and nothing is copied to the
device for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.row import PromptTensors


class RowTable:
    """The rows [N, H] of `prompts`, each once, then those of tokens."""

    def __init__(self, prompts: Sequence[PromptTensors], end: int) -> None:
        """`end`: the token whose row stands where nobody's positions are."""
        self.ids = [end]
        self._prompts = prompts
        self._begins: dict[int, int] = {}
        self._tensors: list[Tensor] = []
        self.nobody = 0
        for tensor in (tensor for prompt in prompts for tensor in prompt.values()):
            if id(tensor) not in self._begins:
                self._begins[id(tensor)] = self.nobody
                self._tensors.append(tensor)
                self.nobody += len(tensor)

    def row(self, part: str, prompt: int, ids: Sequence[int]) -> Tensor:
        """Where soft prompt number `prompt` on side `part` and, behind it, `ids` are: [T] (int64)."""
        tensor = self._prompts[prompt].get(part)
        begin = 0 if tensor is None else self._begins[id(tensor)]
        front = torch.arange(begin, begin + (0 if tensor is None else len(tensor)))
        text = torch.arange(len(self.ids), len(self.ids) + len(ids)) + self.nobody
        self.ids += ids
        return torch.cat([front, text])

    def told(self, places: Tensor) -> list[Tensor]:
        """What `picked` has to be told, on the device, of what stands at `places` [...] of the table: whether
        it is a prompt's, and where among the prompts' rows, or else among the tokens'; [N] each."""
        flat = places.flatten()
        return [
            flat < self.nobody,
            flat.clamp(max=max(self.nobody - 1, 0)),
            (flat - self.nobody).clamp(min=0),
        ]

    def embedded(self, weights: FrozenWeights, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """The rows of prompts, in a type of their own, and of tokens. `ids`: its own, on the device."""
        text = weights.embed(ids)
        return torch.cat([each.to(text.device) for each in self._tensors]) if self._tensors else None, text


def picked(
    rows: tuple[Tensor | None, Tensor], is_prompt: Tensor, of_prompts: Tensor, of_text: Tensor
) -> Tensor:
    """[N, H] in the model's data type.

    A prompt's row that is there many times gets its gradient summed in the prompt's own type.
    """
    prompts, text = rows
    tokens = text.index_select(0, of_text)
    if prompts is None:
        return tokens
    return torch.where(is_prompt[:, None], prompts.index_select(0, of_prompts).to(text.dtype), tokens)


def padded(rows: Sequence[Tensor], filling: int, left: bool) -> tuple[Tensor, Tensor]:
    """Rows [T_i] as one tensor [B, T], aligned at the end or else at the start, and its mask (int64)."""
    longest = max(map(len, rows))
    whole = torch.full((len(rows), longest), filling)
    mask = torch.zeros_like(whole)
    for number, row in enumerate(rows):
        own = slice(longest - len(row), longest) if left else slice(0, len(row))
        whole[number, own], mask[number, own] = row, 1
    return whole, mask
