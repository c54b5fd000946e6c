"""What a vLLM server reads: text, which has to become the very tokens that a request is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from caikit_pt.base_model.family import CAUSAL
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.text.causal import CausalText
from caikit_pt.errors import InvalidParameter
from caikit_pt.serving.vllm_servers import Servers

# vLLM puts it where the soft prompt stands, and lets its tokenizer read it together with the text.
_PLACEHOLDER = "<prompt_embeds>"


class VllmText(CausalText):
    """The text side of a base model whose weights vLLM servers have.

    Raises InvalidParameter for a model that vLLM can't put a soft prompt in front of.
    """

    def __init__(self, checkpoint: Checkpoint, servers: Servers) -> None:
        if checkpoint.family != CAUSAL:
            raise InvalidParameter(
                "base_model",
                checkpoint.name,
                "a decoder-only model where the setting backends names vLLM, which gives soft prompts "
                "to no other",
            )
        super().__init__(checkpoint, checkpoint.tokenizer, checkpoint.generation_config)
        self.servers = servers

    @property
    def context_length(self) -> int | None:
        lengths = [self.checkpoint.context_length, self.servers.context_length]
        return min((length for length in lengths if length), default=None)

    def keep_last(self, ids: list[int], limit: int) -> list[int]:
        """As the engine here cuts, or a little more: until what is left can be written as text."""
        kept = super().keep_last(ids, limit)
        while len(kept) < len(ids) and limit > 1 and self.written(kept) is None:
            limit -= 1
            kept = super().keep_last(ids, limit)
        return kept

    def written(self, ids: Sequence[int]) -> str | None:
        """The text that becomes `ids` behind a soft prompt; None where there is none."""
        # Of the space that a text begins with, some tokenizers make nothing, some add it behind every
        # special token, and some only at the very beginning, which is elsewhere now.
        for space in ("", " "):
            text = "".join(self._pieces(ids, space))
            read = self._reader(_PLACEHOLDER + text, add_special_tokens=False)["input_ids"]
            if list(read[1:]) == list(ids) and _PLACEHOLDER not in text:
                return text
        return None

    def _pieces(self, ids: Sequence[int], space: str) -> Iterator[str]:
        """The texts of special tokens and, with `space` in front, of what is between them."""
        special = set(self.tokenizer.all_special_ids)
        for is_special, run in groupby(ids, key=special.__contains__):
            if is_special:
                yield from self.tokenizer.convert_ids_to_tokens(list(run))
            else:
                yield space + str(self.tokenizer.decode(list(run), clean_up_tokenization_spaces=False))

    @cached_property
    def _reader(self) -> Any:
        """The tokenizer as vLLM has it. A copy: a token is added."""
        from tokenizers import AddedToken

        reader = copy.deepcopy(self.tokenizer)
        reader.add_tokens([AddedToken(_PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
        return reader


@dataclass(frozen=True)
class VllmModel:
    """A base model whose weights vLLM servers have (a `LanguageModel`)."""

    text: VllmText

    @property
    def checkpoint(self) -> Checkpoint:
        """The base model on disk: its config and its tokenizer."""
        return self.text.checkpoint
