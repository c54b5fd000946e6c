"""Records as parquet, where pyarrow is installed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from caikit_pt.errors import InvalidRecord
from caikit_pt.tuning.record_fields import OfType
from caikit_pt.tuning.record_table import header_of
from caikit_pt.tuning.record_text import Position, Row

_ROWS = 256  # at a time


def of_parquet(file: io.BufferedIOBase, name: str) -> Iterator[Row]:
    """The rows of a parquet file that a user knows as `name`. Raises InvalidRecord."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InvalidRecord(
            "file",
            f"{name}: a parquet file, where pyarrow isn't installed",
            "parquet files with `pip install 'caikit-pt[parquet]'`; without it .jsonl, .json, .csv or .tsv",
        ) from None
    number = 0
    try:
        with ParquetFile(file) as table:
            header_of(table.schema_arrow.names, Position(name))
            for batch in table.iter_batches(_ROWS):
                for fields in _in_python(batch):
                    number += 1
                    yield Row(fields, _place_in_parquet(name, number, list(fields)))
    except (ArrowException, UnicodeDecodeError):
        raise InvalidRecord("file", f"{name}, row {number + 1}: no parquet", "a whole parquet file") from None


def _in_python(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch. Of values that Python hasn't got, such as nanoseconds, only the type is told."""

    def values(column: Any) -> list[Any]:
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            raise
        except (ValueError, OverflowError):
            return [OfType(str(column.type))] * len(column)

    columns = [values(column) for column in batch.columns]
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


def _place_in_parquet(name: str, number: int, names: list[str]) -> Callable[[str | None], str]:
    def place(field: str | None) -> str:
        at = f"{name}, row {number}"
        return at if field is None else f"{at}, column {names.index(field) + 1} ({field})"

    return place
