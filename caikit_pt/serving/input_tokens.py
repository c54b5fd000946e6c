"""The tokens of a text that is asked about, with what the model thinks of each."""

from __future__ import annotations

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.request import Request, Token, Worth, describe


def input_tokens(request: Request, base: BaseModel) -> list[Token]:
    """The tokens of the text, with what the request asks to know of them."""
    worths = _worths(request, base)
    pairs = zip(request.row.ids, worths, strict=True)
    return [describe(base.text, token, worth, request.parameters) for token, worth in pairs]


def _worths(request: Request, base: BaseModel) -> list[Worth] | list[None]:
    """One for each token of the text; None where nothing is asked, or nothing predicts them."""
    nothing: list[None] = [None] * len(request.row.ids)
    if not (request.parameters.token_logprobs or request.parameters.token_ranks):
        return nothing
    logits = base.serving.source_logits(request.row)
    if logits is None:
        return nothing
    import torch

    from caikit_pt.base_model.layers.parcel import fetched, sent
    from caikit_pt.serving.wishes import worths_of

    ids = sent(torch.tensor(request.row.ids), logits.device)
    logprobs, ranks = (each.tolist() for each in fetched(worths_of(logits, ids)))
    return [Worth(logprob, int(rank)) for logprob, rank in zip(logprobs, ranks, strict=True)]
