"""Bearer tokens by their hashes: the file of `access.tokens_file`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime.guard.renewed import Renewed
from caikit_pt.settings import as_set

_SETTING = "access.tokens_file"
_LINE = re.compile(r"([0-9a-f]{64})\s*:\s*(\S(?:.*\S)?)", re.IGNORECASE)
# A principal's name: printable, and of a length that one can read.
NAME = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,198}[^\s\x00-\x1f\x7f])?")


class Tokens:
    """Who has which token. Their hashes alone are compared: how long that takes tells nothing of a token."""

    def __init__(self, file: Path) -> None:
        """Raises InvalidParameter where there is no such file, or a line that isn't one."""
        self._file = file
        self._principals = Renewed([file], self._read)

    def principal(self, token: str) -> str | None:
        """The name of the one who has it."""
        return self._principals.get().get(hashlib.sha256(token.encode()).hexdigest())

    # It takes a look as it is.
    known = principal

    def _read(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        try:
            lines = self._file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            allowed = "a file of lines `SHA-256 OF A TOKEN: PRINCIPAL` that this server may read"
            raise InvalidParameter(as_set(_SETTING), str(self._file), allowed) from error
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            whole = _LINE.fullmatch(line)
            name = whole[2].strip("'\"") if whole else ""
            if whole is None or not NAME.fullmatch(name):
                # Not the line itself: it may be a token.
                allowed = "64 hexadecimal digits, a colon and a name: `SHA-256 OF A TOKEN: PRINCIPAL`"
                raise InvalidParameter(as_set(_SETTING), f"line {number}", allowed)
            found[whole[1].lower()] = name
        return found
