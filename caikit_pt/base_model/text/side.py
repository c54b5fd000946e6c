"""The text side of a base model: tokens, how they are cut, and how many fit. It needs no weights."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.row import Row
from caikit_pt.errors import UnknownToken, UnreadableText, excerpt

_CHARACTERS_A_TOKEN = 16
_SPARE_TOKENS = 256
_WORD = "a"
# How the tokenizers, which are written in Rust, fail.
_PANIC = "PanicException"
# Of a text to a model without a context: an encoder's attention to so many takes 256 MiB for each four heads.
_TOKENS_WITHOUT_CONTEXT = 4_096
# A text has at least one token for so many characters, or for as many as the longest piece of a vocabulary.
_MOST_CHARACTERS_A_TOKEN = 64
# Between two words of these no piece of most vocabularies goes on.
_WORDS = re.compile("[A-Za-z0-9] (?=[A-Za-z0-9])")
_ACROSS_WORDS = re.compile("[A-Za-z0-9][ \u2581\u0120]")


class TextSide(ABC):
    """A checkpoint's tokenizer, and what its family does with tokens."""

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Any, generation_config: Any, rows: int | None = None
    ) -> None:
        """`rows`: embeddings that there are, by the weights; or else as many as the checkpoint says.

        Of tokens with this id and higher ones there is none.
        """
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.generation_config = generation_config
        self.rows = checkpoint.rows if rows is None else rows
        self.end_ids = _end_ids(generation_config, tokenizer, self.rows)

    @property
    def context_length(self) -> int | None:
        """Positions that there are, soft prompt included. None: as many as memory holds."""
        return self.checkpoint.context_length

    def source_ids(self, text: str) -> list[int]:
        """The tokens of a source as the model expects them, with its special tokens.

        Raises UnknownToken where one has no embedding.
        """
        return self._embedded(self._ids(self.tokenizer, text))

    def init_ids(self, text: str) -> list[int]:
        """The tokens of a text that a soft prompt starts from, special ones included as in peft.

        Raises UnknownToken where one has no embedding.
        """
        field = "tuning_config.prompt_tuning_init_text"
        return self._embedded(self._ids(self.tokenizer, text, field), field)

    def target_ids(self, text: str) -> list[int]:
        """The tokens of a target without any special token; the caller adds the end token.

        Raises UnknownToken where one has no embedding.
        """
        return self._embedded(self._ids(self._literal_tokenizer, text, add_special_tokens=False))

    def separator_ids(self, separator: str) -> list[int]:
        """The tokens of `separator` behind a word, but for the spaces at its end.

        Raises UnknownToken where one has no embedding.
        """
        texts = (_WORD, _WORD + separator.rstrip(" "), separator.rstrip(" "))
        word, both, alone = (
            self._ids(self.tokenizer, text, "separator", add_special_tokens=False) for text in texts
        )
        return self._embedded(both[len(word) :] if both[: len(word)] == word else alone, "separator")

    def _ids(self, tokenizer: Any, text: str, field: str = "text", **options: Any) -> list[int]:
        """What a tokenizer makes of `text`. Raises UnreadableText where it can't read it."""
        with self.reading(text, field):
            ids: list[int] = tokenizer(text, **options)["input_ids"]
            return ids

    @contextmanager
    def reading(self, text: str, field: str = "text") -> Iterator[None]:
        """Around whatever a tokenizer does with `text`. Raises UnreadableText where it gives up: some cut a
        text by an expression that would try more ways to do so than there is time for."""
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != _PANIC:
                raise
            told = f"text that the tokenizer of base model {self.checkpoint.name} can read ({error})"
            raise UnreadableText(field, excerpt(text), told) from None

    def _embedded(self, ids: Sequence[int], field: str = "text") -> list[int]:
        """`ids`, each with a row among the embeddings: some tokenizers have more tokens than their model."""
        if max(ids, default=0) >= self.rows:
            place, token = next((place, token) for place, token in enumerate(ids, 1) if token >= self.rows)
            raise UnknownToken(
                field,
                str(self.tokenizer.decode([token])).strip(),
                f"text of tokens that base model {self.checkpoint.name} has embeddings for, with ids below "
                f"{self.rows}; token {place} has id {token}. Leave it out",
            )
        return list(ids)

    def first_source_ids(self, text: str, limit: int) -> list[int]:
        """Those of a source, where it has up to `limit`. Of a longer one as many as show that, the first the
        same: it needn't be read whole."""
        return _enough(self.source_ids, lambda size: text[:size], text, limit)

    def last_source_ids(self, text: str, limit: int, most_characters: int) -> list[int] | None:
        """The last tokens of a source, more than `limit` of them or all, as the whole has them.

        None where that can't be told without reading more than `most_characters`.
        """
        size = _CHARACTERS_A_TOKEN * (limit + _SPARE_TOKENS)
        most_characters = max(most_characters, size)
        while size < len(text) and size <= most_characters:
            ids = self._exact_end(text[-size:], limit)
            if ids is not None:
                return ids
            size *= 4
        return self.source_ids(text) if len(text) <= most_characters else None

    def _exact_end(self, end: str, limit: int) -> list[int] | None:
        """The tokens of the `end` of a text, where its last `limit` ones are those of any text that ends so.

        They are, behind a space between two words that no token goes across: what is in front of it decides
        nothing behind it.
        """
        between = _WORDS.search(end) if self._keeps_words_apart else None
        if between is None:
            return None
        ids, in_front = self.source_ids(end), self.source_ids(end[: between.start() + 1])
        return ids if len(ids) - len(in_front) > limit else None

    @cached_property
    def _keeps_words_apart(self) -> bool:
        """Whether no token holds the end of a word with the space behind it."""
        return not any(map(_ACROSS_WORDS.search, self.tokenizer.get_vocab()))

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self.tokenizer.get_vocab()))

    def most_source_ids(self, asked: int) -> int:
        """Tokens that a text may have: as many as `asked`; where that is 0, as the context has."""
        return asked or self.context_length or _TOKENS_WITHOUT_CONTEXT

    def most_characters(self, tokens: int) -> int:
        """Characters that a text of so many tokens may have.

        No piece of the vocabulary has more. Only of what a tokenizer throws away, or puts together to one
        unknown token, there could be more in so few tokens: of that a text has no more than this, either.
        """
        return tokens * max(_MOST_CHARACTERS_A_TOKEN, self._longest_piece)

    def first_target_ids(self, text: str, limit: int) -> list[int]:
        """The same of a target."""
        return _enough(self.target_ids, lambda size: text[:size], text, limit)

    @cached_property
    def _literal_tokenizer(self) -> Any:
        """Takes `</s>` in a text for what it says. A copy: the switch is a state of the tokenizer."""
        literal = copy.deepcopy(self.tokenizer)
        literal.split_special_tokens = True
        return literal

    @property
    def end_id(self) -> int:
        """The end token that targets are trained with."""
        return int(self.tokenizer.eos_token_id)

    # ---- what differs between the families ----

    @abstractmethod
    def answer_text(self, output: str, separator: str) -> str:
        """What `target_ids` makes the tokens of an answer behind `separator` of.

        A space that ends the separator belongs to the answer's first word, as a pretrained model expects it.
        """

    @abstractmethod
    def separated(self, ids: list[int], separator: str) -> list[int]:
        """`ids` of a source, which may have been cut, with the tokens of `separator` behind its text."""

    @abstractmethod
    def cut_source(self, ids: list[int], limit: int) -> list[int]:
        """`ids` with at most `limit` tokens, the first of the text kept."""

    @abstractmethod
    def keep_last(self, ids: list[int], limit: int) -> list[int]:
        """`ids` with at most `limit` tokens, the last of the text kept."""

    @property
    @abstractmethod
    def continues_text(self) -> bool:
        """Whether an answer continues the text, so that the two can be shown as one."""

    @property
    @abstractmethod
    def start_ids(self) -> list[int]:
        """The tokens that every answer begins with, before its own first one."""

    @abstractmethod
    def seen_ids(self, row: Row) -> Sequence[int]:
        """The ids that a repetition penalty counts from, before anything is generated."""

    @abstractmethod
    def room(self, row: Row) -> int | None:
        """Tokens that the context leaves for an answer to `row`; None where it has no end."""

    @abstractmethod
    def served_positions(self, row: Row, answer: int) -> int:
        """Positions whose keys and values are held for `row` and an answer of so many tokens."""


def _enough(
    ids_of: Callable[[str], list[int]], part: Callable[[int], str], text: str, limit: int
) -> list[int]:
    """Token ids of a part of `text` with more than `limit` of them, or of all of it.

    How a text is parted at a cut may differ from how the whole is there: the spare tokens take that up.
    """
    size = _CHARACTERS_A_TOKEN * (limit + _SPARE_TOKENS)
    while size < len(text):
        ids = ids_of(part(size))
        if len(ids) > 2 * limit + _SPARE_TOKENS:
            return ids
        size *= 4
    return ids_of(text)


def _end_ids(generation_config: Any, tokenizer: Any, rows: int) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, and those of the generation config that there are."""
    configured = getattr(generation_config, "eos_token_id", None) or []
    if isinstance(configured, int):
        configured = [configured]
    usable = (token for token in configured if isinstance(token, int) and 0 <= token < rows)
    return frozenset([tokenizer.eos_token_id, *usable])
