"""What a model is tried with, how near is near enough, and how a refusal reads."""

from __future__ import annotations

import torch
from torch import Tensor

from caikit_pt.base_model.text.side import TextSide
from caikit_pt.errors import InvalidParameter

# Of the largest logit: rounding stays far below, a model that does something else far above.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def some_ids(text: TextSide) -> list[int]:
    """Nine ordinary tokens, spread over the vocabulary."""
    size = min(len(text.tokenizer), text.rows)
    special = {*text.tokenizer.all_special_ids, *text.end_ids}
    ids = [index for index in range(size // 3, size) if index not in special]
    return (ids[:: max(1, len(ids) // 9)] * 9)[:9]


def window(text: TextSide, largest: int) -> int:
    """Positions that the model's narrowest layer sees, if these are at most `largest`; else 0."""
    config = text.checkpoint.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size", "attention_window")
    windows = [value for name in names if isinstance(value := getattr(config, name, None), int)]
    return min([window for window in windows if window <= largest], default=0)


def agrees(expected: Tensor, seen: Tensor, dtype: torch.dtype) -> bool:
    """Whether two sets of logits of a model in `dtype` are the same, but for rounding."""
    tolerance = _TOLERANCE[dtype] * float(expected.abs().max())
    return float((expected - seen).abs().max()) <= tolerance


def not_finite(name: str, numbers: str, dtype: torch.dtype) -> InvalidParameter:
    """The refusal of the model `name`, some of whose `numbers` aren't finite."""
    return InvalidParameter(
        "base_model",
        name,
        f"a model whose {numbers} are finite numbers; in {str(dtype).removeprefix('torch.')} those of this "
        "one aren't. Try another torch_dtype, or fetch its files again",
    )
