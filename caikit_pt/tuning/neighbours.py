"""The words of the vocabulary that virtual tokens lie next to: a hint at what a prompt came to mean.

Only a hint: Lester et al. (2021, section 7) find the class labels among the neighbours, but prompts that
work may also have neighbours without any meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel

if TYPE_CHECKING:
    import torch

_CHUNK = 2048  # words whose embeddings are looked at together
_CANDIDATES = 8  # for each word asked for: some turn out unreadable, or the same word again
_BROKEN = "\ufffd"
# Names of tokens that stand for a byte, or for nothing yet: Llama's, T5's, BERT's and Gemma's.
_NO_WORD = re.compile(r"<0x[0-9A-F]{2}>|[<\[]\|?_*(unused|extra_id|reserved)\w*\|?[>\]]")


def nearest_words(base: BaseModel, rows: torch.Tensor, count: int = 3) -> list[list[str]]:
    """For each of the virtual tokens `rows` [P, H] the `count` nearest words, the nearest first.

    Near is by cosine to the embeddings as the first layer gets them. Words are shown without the space
    in front of them, each once. Special and unused tokens and parts of characters are left out, so
    that in rare cases there are fewer than `count`.
    """
    ordinary = _ordinary(base)
    candidates = _nearest(base, rows, ordinary, min(count * _CANDIDATES, len(ordinary)))
    texts = {token: _text(base, token) for tokens in candidates for token in tokens}
    return [_first([texts[token] for token in tokens], count) for tokens in candidates]


def _nearest(base: BaseModel, rows: torch.Tensor, tokens: Sequence[int], count: int) -> list[list[int]]:
    """For each row the `count` nearest of `tokens`. Holds the embeddings of one chunk at a time."""
    import torch

    with torch.no_grad():
        directions = torch.nn.functional.normalize(rows.to(base.weights.device, torch.float32), dim=1)
        best = directions.new_empty(len(rows), 0)
        ids = torch.empty_like(best, dtype=torch.long)
        for start in range(0, len(tokens), _CHUNK):
            chunk = tokens[start : start + _CHUNK]
            words = base.weights.embed(chunk).float()
            cosines = directions @ words.T / words.norm(dim=1).clamp(min=1e-12)
            best = torch.cat([best, cosines], dim=1)
            chunk_ids = torch.tensor(chunk, device=base.weights.device).expand(len(rows), -1)
            ids = torch.cat([ids, chunk_ids], dim=1)
            best, places = best.topk(min(count, best.shape[1]), dim=1)
            ids = ids.gather(1, places)
    return [list(map(int, row)) for row in ids.tolist()]


def _ordinary(base: BaseModel) -> list[int]:
    """The tokens that may stand for text: not special, not reserved, not there to fill the table up."""
    tokenizer = base.text.tokenizer
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    ids = range(min(len(tokenizer), base.text.rows))
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        index
        for index, name in zip(ids, names, strict=True)
        if name and index not in special and not _NO_WORD.fullmatch(name)
    ]


def _text(base: BaseModel, token: int) -> str:
    """What is to be read of a token; nothing where it is only part of a character, or white space."""
    text = str(base.text.tokenizer.decode([token], clean_up_tokenization_spaces=False)).strip()
    return text if _BROKEN not in text and text.isprintable() else ""


def _first(texts: Sequence[str], count: int) -> list[str]:
    """The first `count` different texts that there is something to read in."""
    return list(dict.fromkeys(filter(None, texts)))[:count]
