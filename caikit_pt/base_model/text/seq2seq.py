"""The text side of encoder-decoder models: the answer is a text of its own."""

from __future__ import annotations

from collections.abc import Sequence

from caikit_pt.base_model.row import Row, prompt_length
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import DECODER, ENCODER


class Seq2SeqText(TextSide):
    """What an encoder-decoder model does with tokens."""

    def target_ids(self, text: str) -> list[int]:
        with self.reading(text):
            encoded = self._literal_tokenizer(text_target=text, add_special_tokens=False)
        return self._embedded(encoded["input_ids"])

    def answer_text(self, output: str, separator: str) -> str:
        return output

    def separated(self, ids: list[int], separator: str) -> list[int]:
        ends = ids[-1:] if ids[-1:] == [self.end_id] else []
        return [*ids[: len(ids) - len(ends)], *self.separator_ids(separator), *ends]

    def cut_source(self, ids: list[int], limit: int) -> list[int]:
        if len(ids) <= limit:
            return ids
        # The token that ends a text stays behind what is left of it.
        return [*ids[: limit - 1], ids[-1]] if ids[-1] == self.end_id else ids[:limit]

    def keep_last(self, ids: list[int], limit: int) -> list[int]:
        return ids[-limit:]

    @property
    def continues_text(self) -> bool:
        return False

    @property
    def start_ids(self) -> list[int]:
        """The token that every decoder input begins with. Raises InvalidParameter where there is none."""
        config = self.checkpoint.config
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            start = self.generation_config.decoder_start_token_id
        id = start if start is not None else config.pad_token_id
        if not isinstance(id, int) or not 0 <= id < self.rows:
            raise InvalidParameter(
                "base_model",
                self.checkpoint.name,
                f"a model whose decoder_start_token_id is one of its {self.rows} tokens, not {id}",
            )
        return [id]

    def seen_ids(self, row: Row) -> Sequence[int]:
        return self.start_ids

    def served_positions(self, row: Row, answer: int) -> int:
        encoder = prompt_length(row.prompt, ENCODER) + len(row.ids)
        return encoder + prompt_length(row.prompt, DECODER) + len(self.start_ids) + answer

    def room(self, row: Row) -> int | None:
        context = self.context_length
        if context and prompt_length(row.prompt, ENCODER) + len(row.ids) > context:
            return 0
        return context and context - prompt_length(row.prompt, DECODER) - len(self.start_ids)
