"""Every model is tried when it is loaded: does it treat soft prompts, padding and steps as it should?

transformers accepts embeddings, masks and caches for models that ignore them or scale ids but not
embeddings. Their answers would be wrong without an error, so such a model is refused. It is tried and
not looked up in a list of names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caikit_pt.base_model.frozen import BaseModel, Row
from caikit_pt.errors import InvalidParameter

if TYPE_CHECKING:
    import torch

# Of the largest logit: rounding stays far below, a model that does something else far above.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 5e-2, "bfloat16": 1e-1}


def check_itself(base: BaseModel) -> None:
    """Raises InvalidParameter where a row isn't what it is alone, all at once and given as ids."""
    import torch

    text = _some_ids(base)
    short, whole = Row({}, text[:3]), Row({}, text)
    with torch.inference_mode():
        alone = base.start([short]).logits[0]
        # Beside a longer row, which pads it.
        beside = base.start([whole, short])
        _compare(base, alone, beside.logits[1], "beside a longer row")
        _compare(base, alone, base.plain_logits(short.ids)[0], "given as embeddings")
        beside.advance(torch.tensor([text[3], text[3]], device=base.device))
        stepped = base.plain_logits(short.ids, [text[3]])[1]
        _compare(base, stepped, beside.logits[1], "a token later")


def _some_ids(base: BaseModel) -> list[int]:
    """Ordinary tokens, spread over the vocabulary."""
    size = len(base.tokenizer)
    special = {*base.tokenizer.all_special_ids, *base.end_ids}
    ids = [index for index in range(size // 3, size) if index not in special]
    return (ids[:: max(1, len(ids) // 9)] * 9)[:9]


def _compare(base: BaseModel, expected: torch.Tensor, seen: torch.Tensor, how: str) -> None:
    tolerance = _TOLERANCE[str(base.dtype).removeprefix("torch.")] * float(expected.abs().max())
    if not float((expected - seen).abs().max()) <= tolerance:
        raise InvalidParameter(
            "base_model",
            base.checkpoint.name,
            f"a model whose answers don't change {how}; those of {base.checkpoint.config.model_type} "
            "models do, so soft prompts can't be tuned or served on it",
        )
