"""Sequences, of any prompts and lengths, to their answers: the plain way, a batch from start to end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator

from caikit_pt.base_model.frozen import BaseModel, Decoding
from caikit_pt.serving.sequence import Sequence


def generate(base: BaseModel, sequences: list[Sequence]) -> Iterator[None]:
    """Extends `sequences` by a token each and yields, until all are finished.

    Rows that may not share a batch are run one cohort after the other.
    """
    cohorts: dict[Hashable, list[Sequence]] = defaultdict(list)
    for sequence in sequences:
        cohorts[base.cohort(sequence.row)].append(sequence)
    for cohort in cohorts.values():
        yield from _generate_cohort(base, cohort)


def _generate_cohort(base: BaseModel, sequences: list[Sequence]) -> Iterator[None]:
    import torch

    # Inference mode belongs to a thread, and a generator may be resumed from another: so for each step.
    with torch.inference_mode():
        decoding = base.start([sequence.row for sequence in sequences])
        tokens = _take(decoding, sequences)
    yield
    while not all(sequence.finished for sequence in sequences):
        with torch.inference_mode():
            decoding.advance(torch.tensor(tokens, device=base.device))
            tokens = _take(decoding, sequences)
        yield


def _take(decoding: Decoding, sequences: list[Sequence]) -> list[int]:
    """The next token of each row; a finished row repeats its last one, which nobody reads."""
    return [
        sequence.generated[-1] if sequence.finished else sequence.take(logits)
        for sequence, logits in zip(sequences, decoding.logits, strict=True)
    ]
