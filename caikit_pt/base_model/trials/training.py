"""Are losses and gradients of packed rows those of padded ones, and does a step of training work at all?"""

from __future__ import annotations

import logging
from collections.abc import Collection

import torch
from torch import Tensor

from caikit_pt.base_model.layers.packing import NotPackable
from caikit_pt.base_model.loading.memory import is_out_of_memory
from caikit_pt.base_model.loading.trial import trial
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.trials.sample import not_finite, some_ids, window

_LOG = logging.getLogger(__name__)
# Longer rows than a test can have time for. No model is known whose packed rows are right up to its
# window and wrong beyond it: a layer that says nothing of its window is wrong in `Scoring`, not in length.
_LARGEST_WINDOW = 8192
# How far packed rows may be from padded ones, by length of the difference; or else so many times as far as
# one rounding of the prompts takes the same rows. Right ones have been seen at 3, wrong ones from 8 on.
_SAME = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_ROUNDINGS = 5


def check_packing(training: TrainingSide) -> bool:
    """Whether losses and gradients of packed rows are those of padded ones; a log line where they aren't."""
    try:
        wrong = "its attention can't be replaced"
        if training.text.checkpoint.counts_columns:
            wrong = "its attention counts columns, not positions"
        elif training.weights.packable:
            wrong = _wrong_in_packing(training)
    except Exception as error:  # whatever a model does with what it doesn't know
        if is_out_of_memory(error):
            # Says nothing of the model, and must not be remembered of it.
            raise
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        _LOG.warning("%s trains padded, not packed: %s", training.text.checkpoint.name, wrong)
    return not wrong


def check_training(training: TrainingSide, parts: Collection[str]) -> None:
    """Raises InvalidParameter where a step of training fails with prompts on the sides `parts`.

    Packed or padded, as the model trains.
    """
    sides = " and ".join(sorted(parts))
    with trial(training.text.checkpoint.name, f"a step of training with a soft prompt on the side {sides}"):
        losses, _ = _trained(training, training.trains_packed, parts=parts)
    if not torch.isfinite(losses).all():
        raise not_finite(training.text.checkpoint.name, "losses", training.weights.dtype)


def _wrong_in_packing(training: TrainingSide) -> str:
    """What differs, in words."""
    same, step = _SAME[training.weights.dtype], torch.finfo(training.weights.dtype).eps
    plain, fast = _trained(training, packed=False), _trained(training, packed=True)
    pairs = [(a, b) for a, b in zip(plain, fast, strict=True) if not (a - b).norm() <= same * a.norm()]
    if not pairs:
        return ""
    # In a short data type that is much for one model and rounding for another: for this one?
    shaken = _trained(training, packed=False, nudge=step)
    for expected, near, seen in zip(plain, shaken, fast, strict=True):
        limit = max(same * float(expected.norm()), _ROUNDINGS * float((expected - near).norm()))
        if not float((expected - seen).norm()) <= limit:
            return "its losses or gradients would differ"
    return ""


def _trained(
    training: TrainingSide, packed: bool, nudge: float = 0.0, parts: Collection[str] = ()
) -> tuple[Tensor, Tensor]:
    """Losses of a few rows, and the gradient of all prompts; `nudge` moves these by a part of themselves.

    The prompts, two of them, stand on the sides `parts`, or else on all that there are; rows have several
    lengths. Where some layers of the model see a window only, a last row is longer than it; it is a batch of
    its own, beside which nothing has to be padded.
    """
    words = some_ids(training.text)
    reach = window(training.text, _LARGEST_WINDOW)
    long = (words * (reach // len(words) + 2))[: reach + 3]
    batches = (
        TrainingBatch(
            [words[:3], [words[0], *words[4:]], words[:2], words[:6]],
            [[words[5]], words[2:5], words[1:7], words[3:5]],
            [0, 1, 1, 0],
        ),
        TrainingBatch([[words[0], *long]], [words[6:8]], [0]),
    )
    seen = []
    with torch.inference_mode(False), torch.enable_grad():
        rows = training.weights.embed(words).float() * 1.1
        rows = rows + nudge * rows.roll(1, 1).sign() * rows
        prompts = [
            {
                part: rows.roll(side + 2 * number, 0)[: 2 + number].requires_grad_()
                for side, part in enumerate(parts or training.text.checkpoint.prompt_parts)
            }
            for number in range(2)
        ]
        step = training.packed_step(prompts, words[:1]) if packed else training.padded_step(prompts)
        for batch in batches:
            losses = step.target_losses(batch)
            weights = torch.arange(1, len(losses) + 1, device=training.weights.device)
            (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
            seen.append(losses.detach())
        step.finish()
    gradients = [tensor.grad for prompt in prompts for tensor in prompt.values()]
    if any(gradient is None for gradient in gradients):
        raise NotPackable("a prompt got no gradient")
    return torch.cat(seen), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
