"""Is a row what it is alone, beside others, given as ids and a token later? Every loaded model is tried.

transformers accepts embeddings, masks and caches for models that ignore them or scale ids but not
embeddings. Their answers would be wrong without an error, so such a model is refused. It is tried and
not looked up in a list of names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caikit_pt.base_model.loading.trial import trial
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.side import ServingSide
from caikit_pt.base_model.trials.sample import agrees, not_finite, some_ids
from caikit_pt.errors import InvalidParameter


def check_answers(serving: ServingSide) -> None:
    """Raises InvalidParameter where a row isn't what it is alone, all at once and given as ids."""
    checkpoint, text = serving.text.checkpoint, some_ids(serving.text)
    short, whole = Row({}, text[:3]), Row({}, text)
    with torch.inference_mode(), trial(checkpoint.name, "answers beside a longer row and a token later"):
        width = serving.weights.embed(short.ids).shape[1]
        if width != checkpoint.hidden_size:
            raise InvalidParameter(
                "base_model",
                checkpoint.name,
                f"a model whose config.json says how wide its embeddings are; it says "
                f"{checkpoint.hidden_size}, and they are {width} wide",
            )
        alone = serving.start([short]).logits[0]
        if not torch.isfinite(alone).all():
            raise not_finite(checkpoint.name, "logits", serving.weights.dtype)
        # Beside a longer row, which pads it.
        serving.cohort(short)
        beside = serving.start([whole, short])
        _compare(serving, alone, beside.logits[1], "beside a longer row")
        _compare(serving, alone, serving.plain_logits(short.ids)[0], "given as embeddings")
        beside.advance(torch.tensor([text[3], text[3]], device=serving.weights.device))
        stepped = serving.plain_logits(short.ids, [text[3]])[1]
        _compare(serving, stepped, beside.logits[1], "a token later")


def _compare(serving: ServingSide, expected: Tensor, seen: Tensor, how: str) -> None:
    checkpoint = serving.text.checkpoint
    if not agrees(expected, seen, serving.weights.dtype):
        raise InvalidParameter(
            "base_model",
            checkpoint.name,
            f"a model whose answers don't change {how}; those of {checkpoint.config.model_type} "
            "models do, so soft prompts can't be tuned or served on it",
        )
