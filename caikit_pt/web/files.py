"""Files that callers have uploaded: on disk, each its caller's own.

A caller's are in a folder by the digest of his name, each in one of its own with its content and its facts,
which appears and goes by one rename. Nothing that a caller names becomes part of a path but an id.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from caikit_pt.errors import shown
from caikit_pt.paths import open_file, read_file
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS, rows
from caikit_pt.tuning.records import Records, read_records
from caikit_pt.web.refusal import Refused

_ID = re.compile(r"file-[0-9a-f]{24}")
_CONTENT, _FACTS, _PART = "content", "facts.json", ".part-"
_LARGEST_FACTS = 2**16
_LONGEST_NAME = 255
# What a file takes besides its content: nobody fills a disk with empty ones.
_OVERHEAD = 8192
_BLOCK = 2**20
_SECONDS_TO_WRITE = 3600.0
# A packed one, as parquet is, too, may be of any size once it is read.
_PACKED = (".gz", ".parquet")
READ = tuple(one for one in ENDINGS if not one.endswith(_PACKED))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of one."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    records: int


class FileStore:
    """All files under `directory`; a caller's have `most_bytes` in all, and `largest` each."""

    def __init__(self, directory: Path, largest: int, most_bytes: int) -> None:
        self._root, self._largest, self._most_bytes = directory / "files", largest, most_bytes
        self._writing = threading.Lock()

    def add(self, owner: str, filename: str, purpose: str, content: BinaryIO) -> StoredFile:
        """Keeps a file whose records can be trained on. Raises InvalidRecord, Refused, OSError."""
        name = plain_filename(filename)
        if not name.lower().endswith(READ):
            told = f"file: {shown(name)} is not allowed. Allowed: a name that ends in {', '.join(READ)}"
            raise Refused(told, "file")
        folder = self._folder(owner)
        private(folder)
        part = folder / f"{_PART}{secrets.token_hex(12)}"
        part.mkdir(mode=0o700)
        try:
            size = self._copy(content, part / _CONTENT)
            count = len(_read(part / _CONTENT, name, "file", Asked()))
            stored = StoredFile(f"file-{secrets.token_hex(12)}", size, int(time.time()), name, purpose, count)
            _write(part / _FACTS, json.dumps({**asdict(stored), "owner": owner}).encode())
            with self._writing:
                self._check_room(owner, size)
                part.rename(folder / stored.id)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return stored

    def all(self, owner: str) -> list[StoredFile]:
        """The latest first."""
        found = list[StoredFile]()
        with suppress(FileNotFoundError):
            for path in self._folder(owner).iterdir():
                if path.name.startswith(_PART):
                    _sweep(path)
                elif known := _facts(path):
                    found.append(known)
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def get(self, owner: str, id: str, field: str = "file_id") -> StoredFile:
        """Raises Refused where there is none of his; `field` is what named it."""
        found = _facts(self._path(owner, id, field))
        if found is None:
            raise _unknown(id, field)
        return found

    def content(self, owner: str, id: str) -> Iterator[bytes]:
        """All of it, in parts. Raises Refused where there is none of his."""
        try:
            file = open_file(self._path(owner, id, "file_id") / _CONTENT)
        except OSError:
            raise _unknown(id, "file_id") from None

        def parts() -> Iterator[bytes]:
            with file:
                while part := file.read(_BLOCK):
                    yield part

        return parts()

    def records(self, owner: str, id: str, field: str, asked: Asked) -> Records:
        """To train on, of a request's `field`. Raises InvalidRecord, and Refused where there are none of
        his."""
        known = self.get(owner, id, field)
        return _read(self._path(owner, id, field) / _CONTENT, known.filename, field, asked)

    def remove(self, owner: str, id: str) -> None:
        """Raises Refused where there is none of his."""
        path = self._path(owner, id, "file_id")
        gone = path.with_name(f"{_PART}{secrets.token_hex(12)}")
        try:
            path.rename(gone)
        except OSError:
            raise _unknown(id, "file_id") from None
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, owner: str, id: str, field: str) -> Path:
        """Raises Refused for what is no id."""
        if not _ID.fullmatch(id):
            raise _unknown(id, field)
        return self._folder(owner) / id

    def _folder(self, owner: str) -> Path:
        return self._root / digest_of(owner)

    def _copy(self, content: BinaryIO, path: Path) -> int:
        size = 0
        with open(_created(path), "wb") as file:
            while block := content.read(_BLOCK):
                size += len(block)
                if size > self._largest:
                    most = f"{self._largest / 2**20:g} MiB"
                    raise Refused(f"file: it has more than the {most} that a file may have", "file")
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return size

    def _check_room(self, owner: str, size: int) -> None:
        used = sum(one.bytes + _OVERHEAD for one in self.all(owner))
        if used + size + _OVERHEAD > self._most_bytes:
            told = (
                f"file: yours have {used / 2**20:.1f} MiB together, and {self._most_bytes / 2**20:g} MiB "
                "is allowed. Delete what isn't needed any more"
            )
            raise Refused(told, "file", reason="FILES_FULL")


def plain_filename(given: str) -> str:
    """The name of a file without its folders, of characters that can be shown. Raises Refused."""
    name = PurePosixPath(given.replace("\\", "/")).name.strip()
    if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        told = f"file: it needs a name, of up to {_LONGEST_NAME} characters that can be shown"
        raise Refused(told, "file")
    return name


def private(directory: Path) -> None:
    """`directory`, and those that it is in, where they aren't there yet: nobody else's to read."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def digest_of(owner: str) -> str:
    """A name for the folder of what is `owner`'s, whatever his name has in it."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all. Raises OSError."""
    part = path.with_name(f"{_PART}{secrets.token_hex(12)}")
    try:
        _write(part, content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with open(_created(path), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _created(path: Path) -> int:
    """A descriptor of a new file that is its owner's alone."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _facts(path: Path) -> StoredFile | None:
    """None where there are none, or none that are whole."""
    try:
        known = json.loads(read_file(path / _FACTS, _LARGEST_FACTS))
        return StoredFile(**{name: known[name] for name in StoredFile.__slots__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sweep(path: Path) -> None:
    """What an upload, or a removal, was cut short of."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _SECONDS_TO_WRITE:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, name: str, field: str, asked: Asked) -> Records:
    """As the server would. Raises InvalidRecord."""
    return read_records(rows(path, name), field, asked)


def _unknown(id: str, field: str) -> Refused:
    return Refused(f"There is no file {shown(id)}", field, "NOT_FOUND", "FILE_NOT_FOUND")
