"""Tokenizers of the two base models, trained on the pretraining text.

Both fall back to bytes, so any UTF-8 text survives a round trip, and both write a space in front of
every text, so an output tokenized on its own reads as the next word after the input.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_SPACE = "\u2581"
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_RARE = -20.0


def llama_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding with a BOS token in front, like Llama's."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = _trained_bpe(texts, size, specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=1024,
    )


def t5_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A unigram model with an EOS token at the end, like T5's.

    Its pieces are those that byte-pair encoding finds and their scores are log frequencies: on text
    this small the unigram trainer cuts common words into letters.
    """
    specials = ["<pad>", "</s>", "<unk>"]
    draft = _trained_bpe(texts, size, specials)
    counts: Counter[int] = Counter()
    for encoding in draft.encode_batch(list(texts)):
        counts.update(encoding.ids)
    total = sum(counts.values())
    pieces = [
        (piece, math.log(counts[index] / total) if counts[index] else _RARE)
        for piece, index in sorted(draft.get_vocab().items(), key=lambda item: item[1])
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    _spell_spaces(tokenizer)
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save under the class name that old and new releases of transformers both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _trained_bpe(texts: Sequence[str], size: int, specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=specials[-1], byte_fallback=True))
    _spell_spaces(tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials + _BYTES, min_frequency=5, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _plain_bytes(tokenizer, specials)


def _spell_spaces(tokenizer: Tokenizer) -> None:
    """Words begin with a visible space, digits stand alone, and decoding undoes all of it."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def _plain_bytes(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    """Rebuild with the byte pieces as ordinary pieces: a trainer can only add special ones."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))
