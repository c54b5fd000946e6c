"""Training records as they arrive become pairs of input and output, or are refused by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from caikit_pt.errors import InvalidParameter, InvalidRecord

_SHOWN = 5  # numbers of bad records in an error text
_FEW_RECORDS = 10
_FIELDS = ("input", "output", "text", "labels")
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Record:
    """What the model is given, and what it should answer; and which of its stream it was, from 1 on."""

    input: str
    output: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one `stream`, by its field. `classification` says that they came with class labels,
    `unread` which fields nothing reads, and the numbers of the records that have them."""

    items: tuple[Record, ...]
    classification: bool
    stream: str = "train_stream"
    unread: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.items)

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


def read_records(stream: Iterable[Any], field: str) -> Records:
    """Reads `stream` once, GenerationTrainRecords or ClassificationTrainRecords.

    Raises InvalidRecord where there are none, or where an input or an output is missing or empty:
    numbers are named and texts are not.
    """
    items: list[Record] = []
    unread: dict[str, list[int]] = {}
    classification, bad = False, []
    for number, raw in enumerate(_readable(stream, field), start=1):
        classification |= _is_classification(raw)
        for name in _unread_fields(raw):
            unread.setdefault(name, []).append(number)
        record = replace(_record(raw), number=number)
        if record.input.strip() and record.output.strip():
            items.append(record)
        else:
            bad.append(number)
    if bad:
        raise InvalidRecord(
            field,
            f"{len(bad)} records without an input or an output ({in_words(bad)}){_said_of(unread)}",
            "records whose fields input and output (or text and labels) are both there and not empty",
        )
    if not items:
        raise InvalidRecord(field, "no records", "at least one record")
    return Records(tuple(items), classification, field, unread)


def doubts(records: Records, validation: Records | None) -> list[str]:
    """What is allowed in records and yet unlikely to be meant."""
    told = [
        f"{len(numbers)} records of {stream.stream} have a field {name!r}, which nothing reads "
        f"({in_words(numbers)})"
        for stream in (records, validation)
        if stream is not None
        for name, numbers in stream.unread.items()
    ]
    if len(records) < _FEW_RECORDS:
        told.append(f"{len(records)} records are few to learn from")
    first: dict[tuple[str, str], int] = {}
    repeated = [
        record.number
        for record in records.items
        if first.setdefault((record.input, record.output), record.number) != record.number
    ]
    if repeated:
        told.append(f"{len(repeated)} records are there before, word for word ({in_words(repeated)})")
    outputs: dict[str, set[str]] = {}
    for record in records.items:
        outputs.setdefault(record.input, set()).add(record.output)
    torn = [record.number for record in records.items if len(outputs[record.input]) > 1]
    if torn:
        told.append(f"{len(torn)} records have inputs that occur with other outputs ({in_words(torn)})")
    if len({record.output for record in records.items}) == 1 and len(records) > 1:
        told.append("all records have the same output")
    if validation is not None:
        seen = [record.number for record in validation.items if record.input in outputs]
        if seen:
            told.append(f"{len(seen)} records to validate with are trained on, too ({in_words(seen)})")
    return told


def _unread_fields(raw: Any) -> Sequence[str]:
    """Names of fields that nothing reads; not what is no name, as of a CSV file that has no header."""
    if not isinstance(raw, Mapping):
        return ()
    named = [name for name in raw if isinstance(name, str) and name not in _FIELDS]
    return [name for name in named if name.isidentifier() and len(name) <= _LONGEST_NAME]


def _said_of(unread: Mapping[str, Sequence[int]]) -> str:
    return f", but with {', '.join(unread)}" if unread else ""


def in_words(numbers: Sequence[int]) -> str:
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
        raise InvalidRecord(field, error.value, error.allowed) from error
    except Exception as error:
        raise InvalidRecord(
            field,
            f"a source whose record {number + 1} can't be read ({type(error).__name__})",
            "records whose fields are all text, inline or in UTF-8 files: .jsonl, .json (an array) "
            "or .csv (with a header)",
        ) from error


def _record(raw: Any) -> Record:
    """A record of caikit's data model, or a dict with the same names."""
    if isinstance(raw, Mapping):
        raw = SimpleNamespace(**{"text": None, "input": None, "output": None, **raw})
    if _is_classification(raw):
        return Record(raw.text or "", ",".join(raw.labels or ()))
    return Record(raw.input or "", raw.output or "")


def _is_classification(raw: Any) -> bool:
    return "labels" in raw if isinstance(raw, Mapping) else hasattr(raw, "labels")
