"""What OpenAI's API tells of a job, and the server doesn't keep: each caller's notes, a file for each job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import check_plain_name, read_file
from caikit_pt.web.files import digest_of, private, write_whole

_LARGEST = 2**18


@dataclass(frozen=True, slots=True)
class Note:
    """As the request had it; `hyperparameters` by OpenAI's names, "auto" among them."""

    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    # What of the records is read otherwise than it may be meant: the server never sees their fields.
    warnings: Sequence[str] = field(default_factory=list)


class JobNotes:
    """Those under `directory`, a folder for each caller."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "jobs"

    def keep(self, owner: str, id: str, note: Note) -> None:
        """Writes one, unless it is there. Raises OSError."""
        path = self._path(owner, id)
        if path is not None and not path.exists():
            private(path.parent)
            write_whole(path, json.dumps(asdict(note)).encode())

    def find(self, owner: str, id: str) -> Note | None:
        """None where there is none: the training was submitted elsewhere, or by somebody else."""
        path = self._path(owner, id)
        if path is None:
            return None
        try:
            known = json.loads(read_file(path, _LARGEST))
            return Note(**{name: known[name] for name in Note.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, owner: str, id: str) -> None:
        """Of a job that isn't there any more."""
        path = self._path(owner, id)
        if path is not None:
            with suppress(OSError):
                path.unlink()

    def _path(self, owner: str, id: str) -> Path | None:
        try:
            return self._root / digest_of(owner) / f"{check_plain_name(id)}.json"
        except InvalidParameter:
            return None
