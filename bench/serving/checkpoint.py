"""A base model on disk: a shape of bench.training, random weights, a tokenizer with a word for each id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.training.shapes import Shape

_SPECIAL = ("<s>", "</s>", "<unk>")
FIRST_WORD = len(_SPECIAL)


def write_checkpoint(shape: Shape, directory: Path, dtype: str) -> None:
    """Writes it; the same weights each time."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSeq2SeqLM
    fast: Any = PreTrainedTokenizerFast
    torch.manual_seed(0)
    auto.from_config(shape.config(), dtype=getattr(torch, dtype)).save_pretrained(directory)
    words = {_word(id): id for id in range(shape.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=_SPECIAL[2]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast(tokenizer_object=tokenizer, eos_token=_SPECIAL[1], unk_token=_SPECIAL[2]).save_pretrained(directory)


def text_of(ids: list[int]) -> str:
    """The text that the tokenizer makes `ids` of."""
    return " ".join(_word(id) for id in ids)


def _word(id: int) -> str:
    return _SPECIAL[id] if id < FIRST_WORD else f"w{id}"
