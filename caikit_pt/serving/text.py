"""Tokens become text as they come: no half character, no half stop sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class Detokenizer:
    """Text of a growing list of tokens.

    Decodes only the last few tokens each time, together with those before them, because a token's
    text depends on its neighbours. A character whose bytes are not all there yet is held back. The
    method is that of TGI and vLLM.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = (), skip_space: bool = False) -> None:
        """`context`: tokens in front, which give the first token its space and no text. `skip_space`: a
        space in front of all text is left out."""
        self._tokenizer = tokenizer
        self._ids = list(context)
        self._prefix = 0
        self._skip_space = skip_space
        self._read = len(self._ids)

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        self._ids.append(token)
        return self._advance(last=False)

    def flush(self) -> str:
        """What was held back, as it is."""
        return self._advance(last=True)

    def _advance(self, last: bool) -> str:
        known = self._decode(self._ids[self._prefix : self._read])
        text = self._decode(self._ids[self._prefix :])
        if len(text) <= len(known) or (text.endswith(_BROKEN) and not last):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        new = text[len(known) :]
        new, self._skip_space = new.removeprefix(" ") if self._skip_space else new, False
        return new

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopSequences:
    """Watches a growing text for the first stop sequence."""

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._stops = stops
        self._include = include
        self._held = ""

    def push(self, text: str, may_stop: bool = True) -> tuple[str, bool]:
        """The text that can be shown now, and whether a stop sequence has ended it.

        A tail that may yet become a stop sequence is held back. With `may_stop` false nothing
        ends the text, and what has passed never will.
        """
        self._held += text
        if not may_stop:
            return self.flush(), False
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda item: (item[0], -len(item[1])))
            shown = self._held[: at + len(stop) if self._include else at]
            self._held = ""
            return shown, True
        keep = self._possible_stop()
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown, False

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _possible_stop(self) -> int:
        """Characters at the end of the text that a stop sequence begins with."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
