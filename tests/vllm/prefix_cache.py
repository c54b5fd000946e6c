"""Requests that look alike to a prefix cache: each by itself has another answer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from caikit_pt.soft_prompt.prompt import SoftPrompt

# The server's blocks hold 32 positions, and only whole ones are kept.
_ROWS = 40
_PROMPTS = 8


def alike(text: list[int], hidden_size: int) -> Iterator[tuple[str, SoftPrompt, list[int]]]:
    """What each is for, its soft prompt and its text; a later one may be taken for one before it.

    `text`: token ids, of which some make a shorter text.
    """
    generator = torch.Generator().manual_seed(6)

    def rows(number: int) -> torch.Tensor:
        return 0.1 * torch.randn(number, hidden_size, generator=generator)

    for _ in range(_PROMPTS):
        yield "a text under prompts of one length", SoftPrompt({"DECODER": rows(_ROWS)}), text
    first = rows(_ROWS)
    yield "prompts that differ in one row", SoftPrompt({"DECODER": first}), text
    for row in (0, 31, 32, _ROWS - 1):
        other = first.clone()
        other[row] = 3 * rows(1)
        yield "prompts that differ in one row", SoftPrompt({"DECODER": other}), text
    for length in (len(text), len(text) // 2, len(text) // 4):
        yield "texts of one beginning", SoftPrompt({"DECODER": first}), text[:length]
    # vLLM fills the places of tokens with rows of zeros, and those of rows with the token 0.
    padded = torch.cat([first[:31], torch.zeros(33, hidden_size)])
    for length in (64, 48, 31):
        prompt = SoftPrompt({"DECODER": padded[:length]})
        yield "rows of zeros and tokens of the id 0", prompt, [0] * (64 - length) + text
