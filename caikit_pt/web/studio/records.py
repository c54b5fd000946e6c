"""Records that a form brings: a file, lines of text, the name of a file on the server, or what was brought
some minutes ago by the same caller."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import shutil
import tempfile
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from caikit_pt.client.request import MESSAGE_BYTES
from caikit_pt.errors import InvalidParameter, InvalidRecord
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS, is_record_file, rows
from caikit_pt.tuning.record_text import Row
from caikit_pt.tuning.records import Records, field_doubts, read_records
from caikit_pt.web.refusal import Refused
from caikit_pt.web.studio.pages import kept
from caikit_pt.web.studio.server import server_of

_SECONDS_HELD = 600.0
_MOST_TOLD = 100
# Beside its texts, in memory.
_BYTES_A_RECORD = 300
# As many as go into a message, and what becomes of a packed file.
_MOST_CHARACTERS, _MOST_UNPACKED, _PIECE = MESSAGE_BYTES, 4 * MESSAGE_BYTES, 2**20
_PACKED = ".gz"
# A small one may be one of gigabytes, which shows when it has been read.
_NOT_HERE = ".parquet"
TAKEN = tuple(one for one in ENDINGS if one != _NOT_HERE)
# Each may take seconds of a processor.
_LOOKED_THROUGH_AT_ONCE = 2
_PASTED = "pasted.jsonl"
# What a form may have beside its files: text that is pasted stands in one field.
_MOST_FIELDS, _MOST_TEXT_MIB = 200, 16
_LONGEST_NAME = 200


class RefusedRecords(InvalidRecord):
    """Records that can't be used, each with its place and why: `lines`."""

    def __init__(self, error: InvalidRecord, lines: list[str]) -> None:
        super().__init__(error.field, error.value, error.allowed)
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Brought:
    """Records with what they are known by: `name` to a person, `held` to the form; or a `file` that lies on
    the server."""

    records: Records | None = None
    name: str = ""
    held: str = ""
    file: str = ""
    # The fields that they were read by.
    asked: Asked | None = None

    @property
    def doubts(self) -> list[str]:
        """What is read otherwise than it may be meant."""
        return field_doubts(self.records) if self.records else []


class Held:
    """Records of the last minutes, up to `most_bytes`: a form is checked while it is filled in, and its file
    is sent once. Each is found by who brought it and by what it is."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._known: OrderedDict[tuple[bytes, str], tuple[float, int, Brought]] = OrderedDict()

    def keep(self, who: bytes, found: Brought) -> None:
        """Until others need the room."""
        assert found.records is not None
        size = sum(len(one.input) + len(one.output) + _BYTES_A_RECORD for one in found.records.items)
        self._known.pop((who, found.held), None)
        self._known[who, found.held] = time.monotonic(), size, found
        now = time.monotonic()
        while self._known:
            oldest = next(iter(self._known))
            is_full = self._bytes > self._most_bytes
            if now < self._known[oldest][0] + _SECONDS_HELD and not is_full:
                return
            # Whoever brings more than there is room for loses his own first.
            own = next((key for key in self._known if key[0] == who), oldest)
            del self._known[own if is_full and own != (who, found.held) else oldest]

    def find(self, who: bytes, held: str) -> Brought | None:
        """None where they are gone."""
        at, _, found = self._known.get((who, held), (0.0, 0, None))
        return found if time.monotonic() < at + _SECONDS_HELD else None

    @property
    def _bytes(self) -> int:
        return sum(size for _, size, _ in self._known.values())


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """The form that `request` brings; its files are there for so long. Raises Refused for what is none."""
    most = _MOST_TEXT_MIB * 2**20
    try:
        form = await request.form(max_files=4, max_fields=_MOST_FIELDS, max_part_size=most)
    except HTTPException as error:
        raise Refused(error.detail) from None
    try:
        yield form
    finally:
        await form.close()


async def brought(request: Request, form: FormData, name: str, stream: str) -> Brought | None:
    """The records in the fields of `form` that begin with `name`; None where it has none.

    Raises InvalidParameter where it has them twice, RefusedRecords for what can't be used.
    """
    given = form.get(f"{name}_file")
    file = given if isinstance(given, UploadFile) and given.filename else None
    pasted, lying, held = (text_of(form, f"{name}_{kind}") for kind in ("text", "lies", "held"))
    if sum(map(bool, (file or held, pasted.strip(), lying))) > 1:
        raise InvalidParameter(stream, "…", "one of a file, pasted records and a file on the server")
    if lying:
        return Brought(file=lying, name=lying)
    known = kept(request, "held", lambda: Held(request.app.state.door.now.max_file_mib * 2**20))
    who = hashlib.sha256(server_of(request).token.encode()).digest()
    asked = Asked(text_of(form, "input_field"), text_of(form, "output_field"))
    earlier: Brought | None = known.find(who, held)
    # A file that comes along is meant, and not the one of before.
    if file is None and earlier and earlier.asked == asked:
        return earlier
    gate = kept(request, "gate", lambda: asyncio.Semaphore(_LOOKED_THROUGH_AT_ONCE))
    if file is not None:
        title = Path(file.filename or "").name[-_LONGEST_NAME:]
        async with gate:
            made = await asyncio.to_thread(_of_file, file.file, title, stream, asked)
    elif pasted.strip():
        async with gate:
            made = await asyncio.to_thread(_of_text, pasted, stream, asked)
    elif held:
        raise InvalidParameter(
            stream, "…", "the file once more: it was kept for ten minutes, or until others needed the room"
        )
    else:
        return None
    known.keep(who, made)
    return made


def text_of(form: FormData, name: str) -> str:
    """The text in a field, with the line ends that it was typed with; empty where there is none."""
    found = form.get(name)
    return found.replace("\r\n", "\n") if isinstance(found, str) else ""


def _of_text(text: str, stream: str, asked: Asked) -> Brought:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as copy:
        copy.write(text.encode("utf-8", "replace"))
        copy.flush()
        return _read(Path(copy.name), _PASTED, stream, asked)


def _of_file(file: Any, name: str, stream: str, asked: Asked) -> Brought:
    if not is_record_file(name) or name.lower().endswith(_NOT_HERE):
        raise InvalidRecord(stream, repr(name), f"a file whose name ends in {', '.join(TAKEN)}")
    with tempfile.NamedTemporaryFile() as copy:
        file.seek(0)
        if name.lower().endswith(_PACKED):
            name = _unpacked(file, copy, name, stream)
        else:
            shutil.copyfileobj(file, copy)
        copy.flush()
        return _read(Path(copy.name), name, stream, asked)


def _read(path: Path, name: str, stream: str, asked: Asked) -> Brought:
    try:
        records = read_records(_within(rows(path, name), stream), stream, asked)
    except InvalidRecord as error:
        error.field = stream
        raise RefusedRecords(error, list(_refusals(path, name, stream, asked))) from None
    named = f"{records.digest}-{stream}-{asked.input}-{asked.output}"
    return Brought(records, name, hashlib.sha256(named.encode()).hexdigest(), asked=asked)


def _unpacked(file: Any, copy: IO[bytes], name: str, stream: str) -> str:
    """Puts what is in a packed file into `copy`, and says what that is called. One that can't be unpacked is
    there as it is, for whoever reads it to say so."""
    size = 0
    try:
        with gzip.open(file) as packed:
            while piece := packed.read(_PIECE):
                size += len(piece)
                if size > _MOST_UNPACKED:
                    allowed = f"a file of up to {_MOST_UNPACKED // 2**20} MiB when it is unpacked"
                    raise InvalidRecord(stream, f"{name}, which has more in it,", allowed)
                copy.write(piece)
    except (OSError, EOFError, zlib.error):
        for one in (file, copy):
            one.seek(0)
        copy.truncate()
        shutil.copyfileobj(file, copy)
        return name
    return name[: -len(_PACKED)]


def _within(found: Iterator[Row], stream: str) -> Iterator[Row]:
    """Raises InvalidRecord for more than one request may have."""
    size = 0
    for one in found:
        size += sum(len(value) for value in one.fields.values() if isinstance(value, str))
        if size > _MOST_CHARACTERS:
            allowed = (
                f"up to {_MOST_CHARACTERS:,} characters; larger files are for the server's directory of data"
            )
            raise InvalidRecord(stream, "more text than one request may have", allowed)
        yield one


def _refusals(path: Path, name: str, stream: str, asked: Asked) -> Iterator[str]:
    """Each record that can't be used, up to so many; what isn't a record ends it."""
    told = Counter[str]()
    try:
        for one in _within(rows(path, name), stream):
            try:
                read_records([one], stream, asked)
            except InvalidRecord as error:
                line = _line(error)
                told[line] += 1
                # A header that nobody understands would be told with each of its records.
                if told[line] == 1:
                    yield line
                if len(told) == _MOST_TOLD:
                    yield f"… the first {_MOST_TOLD} are told"
                    return
    except InvalidRecord as error:
        yield f"{_line(error)} - nothing behind it is read"
    if alike := told.total() - len(told):
        yield f"… and {alike:,} records more for the same reason"


def _line(error: InvalidRecord) -> str:
    return f"{error.value}. Allowed: {error.allowed}"
