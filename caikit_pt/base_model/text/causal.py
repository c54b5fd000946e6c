"""The text side of decoder-only models: the answer goes on where the text ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from caikit_pt.base_model.row import Row, prompt_length
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.parameters.tuning import DECODER


class CausalText(TextSide):
    """What a decoder-only model does with tokens."""

    def source_ids(self, text: str) -> list[int]:
        ids = super().source_ids(text)
        return ids[:-1] if self._ends_every_text else ids

    @cached_property
    def _ends_every_text(self) -> bool:
        """A few tokenizers do; but the answer is to follow, so the text hasn't ended."""
        return bool(self.tokenizer("a")["input_ids"][-1] == self.end_id)

    def answer_text(self, output: str, separator: str) -> str:
        spaces = len(separator) - len(separator.rstrip(" "))
        return " " * (spaces - self._begins_with_space if spaces else 0) + output

    @cached_property
    def _begins_with_space(self) -> bool:
        """Whether the tokenizer takes a text for one with a space in front, as sentencepiece's do."""
        (first, *_) = self.tokenizer.convert_ids_to_tokens(self.target_ids("a"))
        return bool(first.startswith(("\u2581", "\u0120")))

    def separated(self, ids: list[int], separator: str) -> list[int]:
        return [*ids, *self.separator_ids(separator)]

    def cut_source(self, ids: list[int], limit: int) -> list[int]:
        return ids[:limit]

    def keep_last(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        # The token that begins a text stays in front of it; it is one of the kept ones.
        begins = self.tokenizer.bos_token_id is not None and ids[0] == self.tokenizer.bos_token_id
        if begins and limit > 1:
            return [ids[0], *ids[-(limit - 1) :]]
        return ids[-limit:]

    @property
    def continues_text(self) -> bool:
        return True

    @property
    def start_ids(self) -> list[int]:
        return []

    def seen_ids(self, row: Row) -> Sequence[int]:
        return row.ids

    def served_positions(self, row: Row, answer: int) -> int:
        return prompt_length(row.prompt, DECODER) + len(row.ids) + answer

    def room(self, row: Row) -> int | None:
        context = self.context_length
        return context and context - prompt_length(row.prompt, DECODER) - len(row.ids)
