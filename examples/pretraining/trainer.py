"""The training loop of both models: batches by length, AdamW, a line of progress with an ETA."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from examples.pretraining.layout import Example
from examples.pretraining.muon import Muon

Loss = Callable[[Module, Sequence[Example]], Tensor]

_IGNORED = -100
_INPUT_WEIGHT = 0.1
_WORD_RATE, _HEAD_RATE, _SMALL_RATE, _MATRIX_RATE = 0.1, 0.02, 0.005, 0.012


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids, padded on the right to one length: (rows, longest)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def causal_loss(model: Module, batch: Sequence[Example]) -> Tensor:
    """Loss of the target, and a little of the source, which teaches the language."""
    ids = padded([item.source + item.target for item in batch], 0)
    targets = padded([[_IGNORED] * len(i.source) + i.target for i in batch], _IGNORED)
    sources = padded([i.source + [_IGNORED] * len(i.target) for i in batch], _IGNORED)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    asked = token_loss(logits, targets[:, 1:])
    return asked + _INPUT_WEIGHT * token_loss(logits, sources[:, 1:])


def seq2seq_loss(model: Module, batch: Sequence[Example]) -> Tensor:
    """Loss of the target given the source."""
    source = padded([item.source for item in batch], 0)
    mask = padded([[1] * len(item.source) for item in batch], 0)
    labels = padded([item.target for item in batch], _IGNORED)
    return token_loss(model(input_ids=source, attention_mask=mask, labels=labels).logits, labels)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy where a row of n labels weighs as sqrt(n): long answers must not drown short.

    Takes logits (rows, length, vocabulary) and labels (rows, length).
    """
    each = cross_entropy(logits.mT, labels, ignore_index=_IGNORED, reduction="none")
    weight = (labels != _IGNORED).float()
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
    return (each * weight).sum() / weight.sum()


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """All examples once, roughly in their order (easy first), similar lengths together.

    Without the lengths, padding would cost more than the model.
    """
    order = list(range(len(examples)))
    pool = size * 64
    for start in range(0, len(order), pool):
        some = sorted(
            order[start : start + pool],
            key=lambda i: (len(examples[i].source) + len(examples[i].target), i),
        )
        groups = [some[at : at + size] for at in range(0, len(some), size)]
        rng.shuffle(groups)
        for group in groups:
            yield [examples[index] for index in group]


def train(
    model: Module,
    examples: Sequence[Example],
    loss_of: Loss,
    *,
    epochs: int,
    size: int,
    seed: int,
    name: str,
) -> None:
    """Train `model` in place; rates rise for a twentieth of the steps, then fall to zero."""
    rng = random.Random(seed)
    steps = epochs * -(-len(examples) // size)
    optimizers = _optimizers(model)
    warm = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        for optimizer in optimizers
    ]
    model.train()
    begun, step, mean = time.monotonic(), 0, 0.0
    for _ in range(epochs):
        for batch in batches(examples, size, rng):
            loss = loss_of(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            step += 1
            mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
            if step % 100 == 0 or step == steps:
                spent = time.monotonic() - begun
                left = spent / step * (steps - step)
                print(
                    f"{name} step {step}/{steps} loss {mean:.3f} {spent:.0f}s, {left:.0f}s left",
                    flush=True,
                )
    model.eval()


def _optimizers(model: Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for word embeddings, head, norms and position biases.

    Muon needs about half of AdamW's steps here. Unit-scale word embeddings only move, and copying
    is only learned soon, at a rate that would be far too large for anything else.
    """
    named = dict(model.named_parameters())
    words = [key for key in named if "embed_tokens" in key or key.startswith("shared")]
    small = [key for key, weight in named.items() if weight.ndim < 2 or "relative_" in key]
    head = [key for key in named if key.startswith("lm_head")]
    rest = [key for key in named if key not in words + small + head]
    groups = [
        {"params": [named[key] for key in words], "lr": _WORD_RATE},
        {"params": [named[key] for key in small], "lr": _SMALL_RATE},
        {"params": [named[key] for key in head], "lr": _HEAD_RATE},
    ]
    return [
        Muon([named[key] for key in rest], lr=_MATRIX_RATE),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0),
    ]
