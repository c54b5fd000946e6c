"""The tokens of a text that is asked about, with what the model thinks of each."""

from __future__ import annotations

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.request import Request, Token, Worth, describe


def input_tokens(request: Request, base: BaseModel) -> list[Token]:
    """The tokens of the text, with what the request asks to know of them."""
    worths = _worths(request, base)
    pairs = zip(request.row.ids, worths, strict=True)
    return [describe(base.text, token, worth, request.parameters) for token, worth in pairs]


def _worths(request: Request, base: BaseModel) -> list[Worth | None]:
    """One for each token of the text; None where nothing is asked, or nothing predicts them."""
    ids, top = request.row.ids, request.parameters.top_tokens
    logits = base.serving.source_logits(request.row) if request.parameters.asks_worths else None
    if logits is None or not len(logits):
        return [None] * len(ids)
    import torch

    from caikit_pt.base_model.layers.parcel import fetched, sent
    from caikit_pt.serving.wishes import read_worths, worths_of

    predicted = sent(torch.tensor(ids[-len(logits) :]), logits.device)
    parts = iter([each.tolist() for each in fetched(worths_of(logits, predicted, top))])
    return [*[None] * (len(ids) - len(logits)), *read_worths(parts, top)]
