"""Tokens as text: tokenizers spell spaces, line breaks and bytes each in their own way."""

from __future__ import annotations

import re
from enum import Enum

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
# A text whose tokens show how a tokenizer spells.
PROBE = "a b"


class Spelling(Enum):
    """Of a tokenizer: SentencePiece's, that of GPT-2, or plain characters."""

    SENTENCE_PIECE = 1
    BYTES = 2
    PLAIN = 3

    @classmethod
    def of(cls, pieces: list[str]) -> Spelling:
        """By the tokens of PROBE."""
        together = "".join(pieces)
        if _SPACE in together:
            return cls.SENTENCE_PIECE
        return cls.BYTES if "\u0120" in together else cls.PLAIN

    def bytes(self, piece: str) -> bytes:
        """What a token stands for: a part of a character, maybe."""
        if self is Spelling.SENTENCE_PIECE:
            found = _BYTE.fullmatch(piece)
            return bytes([int(found[1], 16)]) if found else piece.replace(_SPACE, " ").encode()
        if self is Spelling.BYTES and all(one in _ALPHABET for one in piece):
            return bytes(_ALPHABET[one] for one in piece)
        return piece.encode()

    def text(self, piece: str) -> str:
        r"""The same as text; bytes that are none alone as bytes:\xNN, which is how OpenAI has them."""
        raw = self.bytes(piece)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{one:02x}" for one in raw)


def _alphabet() -> dict[str, int]:
    """GPT-2's: a character that can be seen for each byte (bytes_to_unicode in its encoder.py)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    others = {chr(0x100 + number): byte for number, byte in enumerate(hidden)}
    return {chr(byte): byte for byte in seen} | others


_ALPHABET = _alphabet()
