"""Log-probabilities of tokens, in both of OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.web.openai.pieces import Spelling

# OpenAI's, for what is as good as impossible; infinity is no number in JSON.
_LEAST = -9999.0


@dataclass(slots=True)
class OfCompletion:
    """{tokens, token_logprobs, top_logprobs, text_offset}; offsets count on from part to part."""

    spelling: Spelling
    top: int
    offset: int = 0
    # Tokens in front that nothing predicts: the first, where no prompt stands before it.
    unpredicted: int = 0

    def told(self, tokens: Sequence[Any], tops: Sequence[Any]) -> dict[str, Any]:
        """Of tokens with their log-probability, and the likeliest in the place of each."""
        texts = [self.spelling.text(one.text) for one in tokens]
        offsets = []
        for text in texts:
            offsets.append(self.offset)
            self.offset += len(text)
        each = [
            self._top(text, token, likeliest)
            for text, token, likeliest in zip(texts, tokens, _filled(tops, len(tokens)), strict=True)
        ]
        unknown = min(self.unpredicted, len(tokens))
        self.unpredicted -= unknown
        nothing = [None] * unknown
        return {
            "tokens": texts,
            "token_logprobs": [*nothing, *(_finite(one.logprob) for one in tokens[unknown:])],
            "top_logprobs": [*nothing, *each[unknown:]] if self.top else None,
            "text_offset": offsets,
        }

    def _top(self, text: str, token: Any, likeliest: Sequence[Any]) -> dict[str, float]:
        """The likeliest, and the token itself."""
        found: dict[str, float] = {}
        for one in likeliest:
            # Of two that are written alike the first is the likelier.
            found.setdefault(self.spelling.text(one.text), _finite(one.logprob))
        found.setdefault(text, _finite(token.logprob))
        return found


def of_chat(spelling: Spelling, tokens: Sequence[Any], tops: Sequence[Any]) -> dict[str, Any]:
    """{content: [{token, bytes, logprob, top_logprobs}]}."""
    content = [
        {**_entry(spelling, token), "top_logprobs": [_entry(spelling, one) for one in likeliest]}
        for token, likeliest in zip(tokens, _filled(tops, len(tokens)), strict=True)
    ]
    return {"content": content, "refusal": None}


def _entry(spelling: Spelling, token: Any) -> dict[str, Any]:
    return {
        "token": spelling.text(token.text),
        "bytes": list(spelling.bytes(token.text)),
        "logprob": _finite(token.logprob),
    }


def _filled(tops: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Nothing for each where they weren't asked for."""
    return [one.tokens for one in tops] if len(tops) == count else [()] * count


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
