"""Every model is tried when it is loaded: does it treat soft prompts, padding and steps as it should?

transformers accepts embeddings, masks and caches for models that ignore them or scale ids but not
embeddings. Their answers would be wrong without an error, so such a model is refused. It is tried and
not looked up in a list of names.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from caikit_pt.base_model.frozen import BaseModel, Decoding, Row, TrainingBatch
from caikit_pt.base_model.trial import trial
from caikit_pt.errors import InvalidParameter

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
# Longer rows than a test can have time for. No model is known whose packed rows are right up to its
# window and wrong beyond it: a layer that says nothing of its window is wrong in `how`, not in length.
_LARGEST_WINDOW = 8192
_LARGEST_SERVED_WINDOW = 512
# Of the largest logit: rounding stays far below, a model that does something else far above.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 5e-2, "bfloat16": 1e-1}
# How far packed rows may be from padded ones, by length of the difference; or else so many times as far as
# one rounding of the prompts takes the same rows. Right ones have been seen at 3, wrong ones from 8 on.
_SAME = {"float32": 1e-3, "float64": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
_ROUNDINGS = 5


def check_itself(base: BaseModel) -> None:
    """Raises InvalidParameter where a row isn't what it is alone, all at once and given as ids."""
    import torch

    text = _some_ids(base)
    short, whole = Row({}, text[:3]), Row({}, text)
    with torch.inference_mode(), trial(base.checkpoint.name, "answers beside a longer row and a token later"):
        width = base.embed(short.ids).shape[1]
        if width != base.checkpoint.hidden_size:
            raise InvalidParameter(
                "base_model",
                base.checkpoint.name,
                f"a model whose config.json says how wide its embeddings are; it says "
                f"{base.checkpoint.hidden_size}, and they are {width} wide",
            )
        alone = base.start([short]).logits[0]
        if not torch.isfinite(alone).all():
            raise _not_finite(base, "logits")
        # Beside a longer row, which pads it.
        base.cohort(short)
        beside = base.start([whole, short])
        _compare(base, alone, beside.logits[1], "beside a longer row")
        _compare(base, alone, base.plain_logits(short.ids)[0], "given as embeddings")
        beside.advance(torch.tensor([text[3], text[3]], device=base.device))
        stepped = base.plain_logits(short.ids, [text[3]])[1]
        _compare(base, stepped, beside.logits[1], "a token later")


def check_batching(base: BaseModel) -> bool:
    """Whether rows that join and leave a batch are what they are alone; a log line where they aren't."""
    import torch

    try:
        with torch.inference_mode():
            wrong = _wrong_in_batches(base)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does with what it doesn't know
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        _LOG.warning("%s is served one request at a time: %s", base.checkpoint.name, wrong)
    return not wrong


def _wrong_in_batches(base: BaseModel) -> str:
    """What differs, in words: a row is joined by two others, one of which leaves.

    Where rows have to start together only these are together.
    """
    import torch

    text = _some_ids(base)
    part = base.checkpoint.prompt_parts[0]
    some = base.embed(text) * 1.1
    # Longer than what the model's narrowest layer sees, where reading that much takes no minutes.
    window = _window(base, _LARGEST_SERVED_WINDOW)
    long = (text * (window // len(text) + 2))[: window + len(text)]
    rows = [Row({part: some[:3]}, text[:2]), Row({}, long), Row({part: some[2:7]}, text[:4])]
    batch = base.growing_batch()
    running: list[tuple[Row, Decoding]] = []
    logits: list[torch.Tensor] = []

    def join(*joining: Row) -> None:
        prefill = base.batched_prefill(joining)
        while prefill.columns:
            prefill.advance(3)
        batch.join(prefill)
        running.extend((row, base.start([row])) for row in joining)
        logits.extend(prefill.logits)

    def differs() -> bool:
        expected = [plain.logits[0] for _, plain in running]
        return any(not _agrees(base, a, b) for a, b in zip(expected, logits, strict=True))

    def step() -> None:
        tokens = torch.tensor([text[3 + number] for number in range(len(running))], device=base.device)
        logits[:] = batch.advance(tokens)
        for token, (_, plain) in zip(tokens, running, strict=True):
            plain.advance(token[None])

    late = base.shift_invariant
    join(*(rows[:1] if late else rows[:2]))
    step()
    if differs():
        return "its answers would differ when a step is taken"
    if late:
        join(rows[1], rows[2])
        step()
    if differs():
        return "its answers would differ when a row joins"
    batch.leave(0)
    running[0] = running[-1]
    running.pop()
    logits.pop()
    step()
    return "its answers would differ when a row leaves" if differs() else ""


def check_packing(base: BaseModel) -> bool:
    """Whether losses and gradients of packed rows are those of padded ones; a log line where they aren't."""
    import torch

    try:
        wrong = "its attention can't be replaced"
        if base.checkpoint.counts_columns:
            wrong = "its attention counts columns, not positions"
        elif base.packable:
            wrong = _wrong_in_packing(base)
    except torch.OutOfMemoryError:
        # Says nothing of the model, and must not be remembered of it.
        raise
    except Exception as error:  # whatever a model does with what it doesn't know
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        _LOG.warning("%s trains padded, not packed: %s", base.checkpoint.name, wrong)
    return not wrong


def check_training(base: BaseModel, parts: Collection[str]) -> None:
    """Raises InvalidParameter where a step of training fails with prompts on the sides `parts`.

    Packed or padded, as the model trains.
    """
    import torch

    sides = " and ".join(sorted(parts))
    with trial(base.checkpoint.name, f"a step of training with a soft prompt on the side {sides}"):
        losses, _ = _trained(base, base.trains_packed, parts=parts)
    if not torch.isfinite(losses).all():
        raise _not_finite(base, "losses")


def _wrong_in_packing(base: BaseModel) -> str:
    """What differs, in words."""
    import torch

    same, step = _SAME[_name(base.dtype)], torch.finfo(base.dtype).eps
    plain, fast = _trained(base, packed=False), _trained(base, packed=True)
    pairs = [(a, b) for a, b in zip(plain, fast, strict=True) if not (a - b).norm() <= same * a.norm()]
    if not pairs:
        return ""
    # In a short data type that is much for one model and rounding for another: for this one?
    shaken = _trained(base, packed=False, nudge=step)
    for expected, near, seen in zip(plain, shaken, fast, strict=True):
        limit = max(same * float(expected.norm()), _ROUNDINGS * float((expected - near).norm()))
        if not float((expected - seen).norm()) <= limit:
            return "its losses or gradients would differ"
    return ""


def _trained(
    base: BaseModel, packed: bool, nudge: float = 0.0, parts: Collection[str] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a few rows, and the gradient of all prompts; `nudge` moves these by a part of themselves.

    The prompts, two of them, stand on the sides `parts`, or else on all that there are; rows have several
    lengths. Where some layers of the model see a window only, a last row is longer than it; it is a batch of
    its own, beside which nothing has to be padded.
    """
    import torch

    from caikit_pt.base_model.packing import NotPackable

    words = _some_ids(base)
    long = (words * (_window(base) // len(words) + 2))[: _window(base) + 3]
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
        rows = base.embed(words).float() * 1.1
        rows = rows + nudge * rows.roll(1, 1).sign() * rows
        prompts = [
            {
                part: rows.roll(side + 2 * number, 0)[: 2 + number].requires_grad_()
                for side, part in enumerate(parts or base.checkpoint.prompt_parts)
            }
            for number in range(2)
        ]
        step = base.packed_step(prompts, words[:1]) if packed else base.padded_step(prompts)
        for batch in batches:
            losses = step.target_losses(batch)
            weights = torch.arange(1, len(losses) + 1, device=base.device)
            (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
            seen.append(losses.detach())
        step.finish()
    gradients = [tensor.grad for prompt in prompts for tensor in prompt.values()]
    if any(gradient is None for gradient in gradients):
        raise NotPackable("a prompt got no gradient")
    return torch.cat(seen), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def _window(base: BaseModel, largest: int = _LARGEST_WINDOW) -> int:
    """Positions that the model's narrowest layer sees, if these are at most `largest`; else 0."""
    config = base.checkpoint.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size", "attention_window")
    windows = [value for name in names if isinstance(value := getattr(config, name, None), int)]
    return min([window for window in windows if window <= largest], default=0)


def _some_ids(base: BaseModel) -> list[int]:
    """Ordinary tokens, spread over the vocabulary."""
    size = min(len(base.tokenizer), base.rows)
    special = {*base.tokenizer.all_special_ids, *base.end_ids}
    ids = [index for index in range(size // 3, size) if index not in special]
    return (ids[:: max(1, len(ids) // 9)] * 9)[:9]


def _agrees(base: BaseModel, expected: torch.Tensor, seen: torch.Tensor) -> bool:
    tolerance = _TOLERANCE[_name(base.dtype)] * float(expected.abs().max())
    return float((expected - seen).abs().max()) <= tolerance


def _compare(base: BaseModel, expected: torch.Tensor, seen: torch.Tensor, how: str) -> None:
    if not _agrees(base, expected, seen):
        raise InvalidParameter(
            "base_model",
            base.checkpoint.name,
            f"a model whose answers don't change {how}; those of {base.checkpoint.config.model_type} "
            "models do, so soft prompts can't be tuned or served on it",
        )


def _not_finite(base: BaseModel, numbers: str) -> InvalidParameter:
    dtype = _name(base.dtype)
    return InvalidParameter(
        "base_model",
        base.checkpoint.name,
        f"a model whose {numbers} are finite numbers; in {dtype} those of this one aren't. "
        "Try another torch_dtype, or fetch its files again",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
