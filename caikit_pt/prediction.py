"""A file of answers to the records of another, in their order; begun again, it goes on where it has ended.

Beside the answers FILE stands FILE.run.json: whose answers they are, and to what.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any

from caikit_pt.asking import LOST
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.tuning.record_fields import OfType, UnusableField, input_field, input_text
from caikit_pt.tuning.record_file import rows

ERROR = "error"
_INPUT = "input"
# Said with every answer, and never of one.
_LEFT_OUT = ("producer_id",)
_JSON_LINES, _TABLE = ".jsonl", ".csv"
_OUT = "--out"
_SECONDS_BETWEEN_CHECKS = 3.0
# What tells a run from another, in words.
_OTHER = {
    "model_name": "of another model",
    "training_id": "of another training of the model",
    "parameters": "with other parameters",
    "input_field": "to another field",
    "input_sha256": "to other records",
}


class TrainedAgain(CaikitPtError):
    """The prompt was trained again while it was asked."""

    status = "ABORTED"


@dataclass(frozen=True, slots=True)
class Input:
    """A record to be answered: its `text` in `field`, or why it has none, and its other fields."""

    field: str
    text: str
    others: Mapping[str, Any]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """How many records there are, the column that their text is in, and the names of all other fields."""

    count: int
    column: str
    others: Sequence[str]


@dataclass(frozen=True)
class Inputs:
    """The records of `file`; their text is in `field`, where that is empty in the one that training reads."""

    file: Path
    field: str = ""

    def __iter__(self) -> Iterator[Input]:
        """Raises InvalidRecord where the file can't be read, or a record has no such field."""
        for row in rows(self.file, str(self.file)):
            try:
                name = input_field(row.fields, self.field)
            except UnusableField as error:
                raise InvalidRecord(
                    "file", f"{row.place(error.name)}: {error.found}", error.expected
                ) from None
            value = row.fields[name]
            others = {
                other: found
                for other, found in row.fields.items()
                if other != name and isinstance(other, str) and not isinstance(found, OfType)
            }
            try:
                yield Input(name, input_text(name, value), others)
            except UnusableField as error:
                shown = value if isinstance(value, str) else ""
                yield Input(name, shown, others, f"{name}: {error.found}. Expected: {error.expected}")

    @cached_property
    def checked(self) -> Checked:
        """Reads all of them; raises InvalidRecord, too, where none can be answered."""
        first, count, usable = None, 0, False
        # In the order that they come in.
        others: dict[str, None] = {}
        for one in self:
            first, count, usable = first or one, count + 1, usable or not one.error
            others.update(dict.fromkeys(one.others))
        if first is None or not usable:
            found = first.error if first else "no records"
            raise InvalidRecord("file", f"{self.file}: {found}", "at least one record with a text")
        # Records may have it under several names, where none is asked for.
        return Checked(count, first.field if self.field else _INPUT, list(others))

    @property
    def sha256(self) -> str:
        """Of the file."""
        with self.file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


class Answers:
    """The file of answers `path`, a record each: `done` so far, `errors` of them without an answer."""

    def __init__(self, path: Path, run: Mapping[str, Any], checked: Checked, names: Sequence[str]) -> None:
        """`run` says whose answers they are; `names` are the fields of an answer.

        Nothing is written yet. Raises InvalidParameter where nothing can be, where a record has a field that
        an answer has, or where `path` holds something else than the first of these answers.
        """
        self.done = self.errors = 0
        self._path, self._run = path, run
        _, self._beside = written(path)
        self._is_table = path.suffix.lower() == _TABLE
        self._column, self._others = checked.column, checked.others
        told = [*(name for name in names if name not in _LEFT_OUT), ERROR]
        self._columns = [self._column, *checked.others, *told]
        self._file: IO[bytes] | None = None
        _check_others(checked, told)
        self._check_path()
        if self._holds_something:
            self._check_run()

    @property
    def training_id(self) -> str:
        """The training whose answers they are."""
        return str(self._run["training_id"])

    def open(self) -> None:
        """Drops a last line that is torn, and is ready for the next one.

        Raises InvalidParameter where another process is at it, OSError.
        """
        self._file = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidParameter(_OUT, str(self._path), "a file that no other process writes") from None
        if not self._holds_something:
            new = self._beside.with_name(f".{self._beside.name}.new")
            new.write_text(_json(self._run) + "\n", "utf-8")
            os.replace(new, self._beside)
        self._file.seek(0)
        size = 0
        for record in _whole(self._file, self._is_table):
            self._count(record, is_header=self._is_table and not size)
            size += len(record)
        self._file.truncate(size)
        if self._is_table and not size:
            self._put(_row(self._columns))

    def write(self, asked: Input, answer: Mapping[str, Any]) -> None:
        """The next one: from now on it is there, whatever happens to this process."""
        told = {name: value for name, value in answer.items() if name not in _LEFT_OUT}
        line = {self._column: asked.text, **asked.others, **told}
        if self._is_table:
            self._put(_row([line.get(name) for name in self._columns]))
        else:
            self._put(_json(line) + "\n")
        self.done += 1
        self.errors += ERROR in answer

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()

    @property
    def _holds_something(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > 0

    def _check_path(self) -> None:
        path = self._path
        if path.suffix.lower() not in (_JSON_LINES, _TABLE):
            raise InvalidParameter(_OUT, str(path), f"a file whose name ends in {_JSON_LINES} or {_TABLE}")
        place = path if path.exists() else path.parent
        if not (path.is_file() or not path.exists()) or not os.access(path.parent, os.W_OK):
            raise InvalidParameter(_OUT, str(path), "a file in a directory that can be written to")
        if not os.access(place, os.W_OK):
            raise InvalidParameter(_OUT, str(path), "a file that can be written")

    def _check_run(self) -> None:
        allowed = "a new file, or one that the same command has begun"
        try:
            other = json.loads(self._beside.read_text("utf-8"))
            differing = [name for name, value in self._run.items() if other.get(name) != value]
        except (OSError, ValueError, AttributeError):
            told = f"what {self._path.name} holds isn't known, for there is no {self._beside.name}"
            raise InvalidParameter(_OUT, str(self._path), f"{allowed} ({told})") from None
        if differing:
            told = f"{self._path.name} holds answers {', '.join(_OTHER[name] for name in differing)}"
            raise InvalidParameter(_OUT, str(self._path), f"{allowed} ({told}); to begin anew, remove it")

    def _count(self, record: bytes, is_header: bool) -> None:
        """Raises InvalidParameter for what is no answer."""
        text = record.decode("utf-8", "replace")
        try:
            if not self._is_table:
                self.errors += ERROR in dict(json.loads(text))
            else:
                (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
                if is_header:
                    # Those of the release that began the file.
                    missing = {self._column, *self._others}.difference(cells)
                    if missing:
                        allowed = f"a file of answers with the columns {', '.join(sorted(missing))}, too"
                        raise InvalidParameter(_OUT, str(self._path), f"{allowed}; to begin anew, remove it")
                    self._columns = cells
                    return
                self.errors += bool(dict(zip(self._columns, cells, strict=True))[ERROR])
        except (ValueError, TypeError, KeyError, csv.Error):
            told = f"a file of answers; its record {self.done + 1} is none"
            raise InvalidParameter(_OUT, str(self._path), told) from None
        self.done += 1

    def _put(self, text: str) -> None:
        assert self._file is not None
        # Half a surrogate pair becomes what JSON has for it.
        self._file.write(text.encode("utf-8", "backslashreplace"))
        self._file.flush()


def written(out: Path) -> tuple[Path, Path]:
    """The files that are written for the answers `out`."""
    return out, out.with_name(f"{out.name}.run.json")


def predict(
    client: TuningClient,
    model_name: str,
    inputs: Inputs,
    answers: Answers,
    in_flight: int,
    parameters: Mapping[str, Any],
    on_lost: Callable[[CaikitPtError], None],
    on_answer: Callable[[], None],
) -> None:
    """Asks for every record that `answers`, which is open, has none of yet.

    Raises ServerError, OSError, and TrainedAgain where they are no longer of one training.
    """
    asked: deque[Input] = deque()
    training = _SameTraining(client, model_name, answers)

    def texts() -> Iterator[str]:
        for one in islice(inputs, answers.done, None):
            asked.append(one)
            if not one.error:
                yield one.text

    def write(answer: Mapping[str, Any]) -> None:
        answers.write(asked.popleft(), answer)
        on_answer()

    def write_what_is_not_asked() -> None:
        while asked and asked[0].error:
            write({ERROR: asked[0].error})

    def lost(error: CaikitPtError) -> None:
        training.check_soon()
        on_lost(error)

    for answer in client.predict(model_name, texts(), in_flight, lost, **parameters):
        training.check_now_and_then()
        write_what_is_not_asked()
        write(answer)
    write_what_is_not_asked()
    training.check()


class _SameTraining:
    """Whether the prompt is still that of the training whose answers are in the file."""

    def __init__(self, client: TuningClient, model_name: str, answers: Answers) -> None:
        self._client, self._model_name, self._answers = client, model_name, answers
        self._sure = self._at_last_check = answers.done
        self._next = time.monotonic() + _SECONDS_BETWEEN_CHECKS

    def check(self) -> None:
        """Raises TrainedAgain, ServerError."""
        found = self._client.trained_by(self._model_name)
        if found != self._answers.training_id:
            raise TrainedAgain(
                f"{self._model_name} was trained again meanwhile ({found or 'its training is gone'}): "
                f"answers behind the first {self._sure} may be of either training"
            )
        # A prompt answers a moment before its training is complete: the answers since the last check but one
        # may be of another.
        self._sure, self._at_last_check = self._at_last_check, self._answers.done
        self._next = time.monotonic() + _SECONDS_BETWEEN_CHECKS

    def check_now_and_then(self) -> None:
        """As `check`, where it's time; a server that is gone is asked later."""
        if time.monotonic() >= self._next:
            try:
                self.check()
            except ServerError as error:
                if error.status not in LOST:
                    raise

    def check_soon(self) -> None:
        """With the next answer: the server is gone, and may come back with another prompt."""
        self._next = 0.0


def _check_others(checked: Checked, told: Sequence[str]) -> None:
    """Raises InvalidParameter where a field of the records has the name of one of their answers."""
    for name in checked.others:
        if name in (checked.column, *told):
            what = "their text" if name == checked.column else "an answer"
            raise InvalidParameter(
                "--in", name, f"fields whose names {what} doesn't have in {_OUT}: rename it in the records"
            )


def _whole(file: IO[bytes], is_table: bool) -> Iterator[bytes]:
    """The records of a file that are there to their ends; in a table a line break may stand in quotes."""
    record, quotes = b"", 0
    for line in file:
        record += line
        quotes += line.count(b'"') if is_table else 0
        if line.endswith(b"\n") and quotes % 2 == 0:
            yield record
            record, quotes = b"", 0


def _row(cells: Iterable[Any]) -> str:
    """A row of a table; what is no text stands there as JSON."""
    told = io.StringIO(newline="")
    plain = ["" if cell is None else cell if isinstance(cell, str) else _json(cell) for cell in cells]
    csv.writer(told).writerow(plain)
    return told.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
