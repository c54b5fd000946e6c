"""Training records as they arrive become pairs of input and output, or are refused by number."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from typing import Any

from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.tuning.record_fields import Asked, Chosen, UnusableField, input_and_output
from caikit_pt.tuning.record_file import ENDINGS
from caikit_pt.tuning.record_text import Row
from caikit_pt.turns import in_turn

_SHOWN = 5  # numbers of bad records in an error text
_FEW_RECORDS = 10
_LONGEST_NAME = 40
_NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class Record:
    """What the model is given, and what it should answer; and which of its stream it was, from 1 on."""

    input: str
    output: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one `stream`, by its field.

    `classification` says that they came with class labels, `several_labels` that some have more than one, so
    that outputs are labels joined; `unread` which fields nothing reads, `guessed` which are read though their
    names aren't the product's own, both with the numbers of the records that have them.
    """

    items: tuple[Record, ...]
    classification: bool
    stream: str = "train_stream"
    unread: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False)
    guessed: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False)
    several_labels: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and outputs, in their order: equal for the same records, and tells none."""
        hashed = hashlib.sha256()
        for record in self.items:
            hashed.update(json.dumps([record.input, record.output]).encode())
        return hashed.hexdigest()

    def split(self, count: int, seed: int) -> tuple[Records, Records]:
        """All but `count` records, and these, drawn by `seed`; both in their old order.

        Records with the same input go the same way, so that nothing that is validated with was trained
        on: there may be fewer than `count` for it, or, where no input is as rare, more. Only where all
        records have one input they are parted all the same.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.items), generator=generator).tolist()
        same = Counter(record.input for record in self.items)
        drawn: set[str] = set()
        taken = 0
        for text in dict.fromkeys(self.items[index].input for index in order):
            if taken + same[text] <= count:
                drawn.add(text)
                taken += same[text]
        held = [record.input in (drawn or {min(same, key=same.__getitem__)}) for record in self.items]
        if all(held):
            picked = set(order[:count])
            held = [index in picked for index in range(len(held))]
        kept = tuple(record for record, out in zip(self.items, held, strict=True) if not out)
        out = tuple(record for record, out in zip(self.items, held, strict=True) if out)
        return replace(self, items=kept), replace(self, items=out)


def read_records(stream: Iterable[Any], field: str, asked: Asked = _NOTHING_ASKED) -> Records:
    """Reads `stream` once: rows of files, GenerationTrainRecords, ClassificationTrainRecords, or mappings.

    `asked` names the fields of files and mappings that are the input and the output. Raises
    InvalidRecord where there are none, or where one can't be used: the first is told with its place and
    20 characters of what stands there, others by number.
    """
    items: list[Record] = []
    unread: dict[str, list[int]] = {}
    guessed: dict[str, list[int]] = {}
    classification, several, bad = False, False, list[int]()
    first: tuple[str, str] | None = None

    def read(number: int, raw: Any) -> None:
        nonlocal classification, several, first
        fields, of_request = _fields(raw)
        try:
            given, answer, chosen = input_and_output(fields, asked if of_request else _NOTHING_ASKED)
        except UnusableField as error:
            bad.append(number)
            first = first or _refusal(raw, number, error)
            return
        items.append(Record(given, answer, number))
        classification |= chosen.classifies
        several |= chosen.classifies and _holds_several(fields[chosen.output])
        if chosen.is_guessed and not (asked.input or asked.output):
            guessed.setdefault(chosen.told, []).append(number)
        for name in _unread(fields, chosen):
            unread.setdefault(name, []).append(number)

    for _ in in_turn(starmap(read, enumerate(_readable(stream, field), start=1))):
        pass
    if first:
        found, expected = first
        more = f"; {len(bad)} records can't be used ({numbered(bad)})" if len(bad) > 1 else ""
        raise InvalidRecord(field, found + more, expected)
    if not items:
        raise InvalidRecord(field, "no records", "at least one record")
    return Records(tuple(items), classification, field, unread, guessed, several)


def _holds_several(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1


def field_doubts(records: Records) -> list[str]:
    """What of the fields of `records` is read otherwise than it may be meant."""
    guessed = [
        f"{len(numbers)} records of {records.stream} are read with {told} ({numbered(numbers)})"
        for told, numbers in records.guessed.items()
    ]
    return guessed + [
        f"{len(numbers)} records of {records.stream} have a field {name!r}, which nothing reads "
        f"({numbered(numbers)})"
        for name, numbers in records.unread.items()
    ]


def doubts(records: Records, validation: Records | None) -> list[str]:
    """What is allowed in records and yet unlikely to be meant."""
    told = [one for stream in (records, validation) if stream is not None for one in field_doubts(stream)]
    if len(records) < _FEW_RECORDS:
        told.append(f"{len(records)} records are few to learn from")
    first: dict[tuple[str, str], int] = {}
    repeated = [
        record.number
        for record in records.items
        if first.setdefault((record.input, record.output), record.number) != record.number
    ]
    if repeated:
        told.append(f"{len(repeated)} records are there before, word for word ({numbered(repeated)})")
    outputs: dict[str, set[str]] = {}
    for record in records.items:
        outputs.setdefault(record.input, set()).add(record.output)
    torn = [record.number for record in records.items if len(outputs[record.input]) > 1]
    if torn:
        told.append(f"{len(torn)} records have inputs that occur with other outputs ({numbered(torn)})")
    if len({record.output for record in records.items}) == 1 and len(records) > 1:
        told.append("all records have the same output")
    if validation is not None:
        seen = [record.number for record in validation.items if record.input in outputs]
        if seen:
            told.append(f"{len(seen)} records to validate with are trained on, too ({numbered(seen)})")
    return told


def _refusal(raw: Any, number: int, error: UnusableField) -> tuple[str, str]:
    """What stands where in a record that can't be used, and what was expected."""
    if isinstance(raw, Row):
        place = raw.place(error.name)
    else:
        place = f"record {number}" + (f", {error.name}" if error.name else "")
    return f"{place}: {error.found}", error.expected


def _unread(fields: Mapping[str, Any], chosen: Chosen) -> Sequence[str]:
    """Names of fields that nothing reads; not what is no name."""
    named = [name for name in fields if isinstance(name, str) and name not in (chosen.input, chosen.output)]
    return [name for name in named if name.isidentifier() and len(name) <= _LONGEST_NAME]


def numbered(numbers: Sequence[int]) -> str:
    """The `numbers` of records in an error text, the first of many."""
    return f"record {', '.join(map(str, numbers[:_SHOWN]))}" + (", …" if len(numbers) > _SHOWN else "")


def _readable(stream: Iterable[Any], field: str) -> Iterator[Any]:
    """The items of `stream`. A source may fail with anything, and its text may hold a record's."""
    number = 0
    try:
        for raw in stream:
            number += 1
            yield raw
    except InvalidParameter as error:
        raise InvalidRecord(field, error.told(error.value), error.allowed) from error
    except CaikitPtError:
        raise
    except Exception as error:
        raise InvalidRecord(
            field,
            f"a source whose record {number + 1} can't be read ({type(error).__name__})",
            f"records inline, or in files whose names end in {', '.join(ENDINGS)}",
        ) from error


def _fields(raw: Any) -> tuple[Mapping[str, Any], bool]:
    """The fields of a record, and whether their names are its own; those of caikit's data model aren't."""
    if isinstance(raw, Row):
        return raw.fields, True
    if isinstance(raw, Mapping):
        return raw, True
    names = ("text", "labels") if hasattr(raw, "labels") else ("input", "output")
    return {name: getattr(raw, name, None) for name in names}, False
