"""How a row of text becomes the token ids of a training example, for either kind of model.

The frame around the input and the place of BOS vary, so that a tuned model does not depend on one
verbalizer or on one tokenizer habit. Most rows use the plain frame `{input}`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from examples.pretraining.row import Row

_PLAIN = "{input}"
_FRAMES = (
    "{input}\n",
    "{input} Answer:",
    "{input} Label:",
    "Text: {input}\nAnswer:",
    "Message: {input} Answer: ",
    "Text: {input} Label : ",
    "Tweet text : {input} Label : ",
    "Input: {input} Output:",
)


@dataclass(frozen=True)
class Example:
    """Token ids of what the model reads and of what it has to write (EOS included)."""

    source: list[int]
    target: list[int]


def _framed(row: Row, rng: random.Random) -> str:
    frame = _PLAIN if rng.random() < 0.65 else rng.choice(_FRAMES)
    return frame.format(input=row.input)


def causal_example(row: Row, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Example:
    """Instruction, input and output are tokenized apart, as prompt, source and target will be.

    BOS stands in front, or between instruction and input (where it ends up behind a soft prompt),
    or nowhere.
    """
    head, text = _ids(tokenizer, row.instruction), _ids(tokenizer, _framed(row, rng))
    bos = [int(tokenizer.bos_token_id)]
    place = rng.random()
    if place < 0.2:
        source = bos + head + text
    elif place < 0.65:
        source = head + bos + text
    else:
        source = head + text
    return Example(source, [*_ids(tokenizer, row.output), int(tokenizer.eos_token_id)])


def seq2seq_example(row: Row, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Example:
    """The encoder reads instruction and input, the decoder writes the output."""
    eos = [int(tokenizer.eos_token_id)]
    head, text = _ids(tokenizer, row.instruction), _ids(tokenizer, _framed(row, rng))
    return Example(head + text + eos, _ids(tokenizer, row.output) + eos)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
