"""Rows with soft prompts of many lengths, and the greedy answers of a model to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.parameters.tuning import DECODER, ENCODER

from .families import VOCABULARY, WORDS

STEPS = 14
TOLERANCE = 1e-4  # in float32
ROUNDING = 1e-10  # in float64
# Virtual tokens and words of each row of a batch.
LENGTHS = ((8, 5), (20, 2), (3, 17), (0, 9), (8, 11))
DECODER_ONLY = (DECODER,)
ENCODER_ONLY = (ENCODER,)
BOTH = (ENCODER, DECODER)


@dataclass(frozen=True, slots=True)
class Answer:
    """The logits [N, V] of each step and the token that each step took."""

    logits: torch.Tensor
    tokens: list[int]


def words(count: int, seed: int) -> str:
    """`count` random words."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(WORDS), (count,), generator=generator).tolist()
    return " ".join(WORDS[index] for index in picked)


def soft_prompt(base: BaseModel, length: int, seed: int) -> torch.Tensor:
    """Random rows [P, H] of the size of this model's word embeddings, float32."""
    size = float(base.weights.embed(range(len(VOCABULARY))).float().std())
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(length, base.checkpoint.hidden_size, generator=generator)


def sample_rows(base: BaseModel, parts: Sequence[str], seed: int = 0) -> list[Row]:
    """A row for each of LENGTHS, every one with a text and a prompt of its own."""
    return [
        Row(
            {
                part: soft_prompt(base, prompt_length, seed=100 * seed + 10 * index + side)
                for side, part in enumerate(parts)
                if prompt_length
            },
            base.text.source_ids(words(text_length, seed=100 * seed + index)),
        )
        for index, (prompt_length, text_length) in enumerate(LENGTHS)
    ]


def greedy(base: BaseModel, rows: Sequence[Row], steps: int = STEPS) -> list[Answer]:
    """The answers to `rows` in one batch, through the end token and beyond."""
    with torch.inference_mode():
        decoding = base.serving.start(rows)
        logits, tokens = [decoding.logits], [decoding.logits.argmax(dim=-1)]
        for _ in range(steps - 1):
            decoding.advance(tokens[-1])
            logits.append(decoding.logits)
            tokens.append(decoding.logits.argmax(dim=-1))
    all_logits, all_tokens = torch.stack(logits, dim=1), torch.stack(tokens, dim=1)
    return [Answer(*pair) for pair in zip(all_logits, all_tokens.tolist(), strict=True)]


def greedy_by_cohort(base: BaseModel, rows: Sequence[Row]) -> list[Answer]:
    """The answers to `rows` in as few batches as the model allows."""
    answers: dict[int, Answer] = {}
    for cohort in {base.serving.cohort(row) for row in rows}:
        numbers = [number for number, row in enumerate(rows) if base.serving.cohort(row) == cohort]
        together = greedy(base, [rows[number] for number in numbers])
        answers.update(zip(numbers, together, strict=True))
    return [answers[number] for number in range(len(rows))]


def assert_same(answer: Answer, expected: Answer, tolerance: float = TOLERANCE) -> None:
    """The numbers agree at every step, and so do the tokens."""
    difference = float((answer.logits - expected.logits).abs().max())
    assert difference <= tolerance, f"a logit differs by {difference:.1e}"
    assert answer.tokens == expected.tokens, "other tokens"
