"""Files of records, as people have them: rows, one at a time, each with its place in the file.

Which fields matter is for `record_fields`. A file is never in memory whole.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from caikit_pt.errors import InvalidRecord
from caikit_pt.paths import open_file
from caikit_pt.tuning.record_json import of_json, of_json_lines
from caikit_pt.tuning.record_parquet import of_parquet
from caikit_pt.tuning.record_table import of_table
from caikit_pt.tuning.record_text import Row, Text

_GZIP, _PARQUET = ".gz", ".parquet"
_READERS = {".jsonl": of_json_lines, ".json": of_json, ".csv": of_table, ".tsv": of_table}
ENDINGS = (*_READERS, *(kind + _GZIP for kind in _READERS), _PARQUET)


def is_record_file(name: str) -> bool:
    """Whether it is read at all, by its ending in whatever case."""
    return name.lower().endswith(ENDINGS)


def rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of the file at `path`, which a user knows as `name`.

    Raises InvalidRecord with file, line, column, what stands there and what was expected.
    """
    kind = name.lower()
    if not is_record_file(name):
        raise InvalidRecord("file", name, f"a file whose name ends in {', '.join(ENDINGS)}")
    try:
        with open_file(path) as file:
            if kind.endswith(_PARQUET):
                yield from of_parquet(file, name)
            elif kind.endswith(_GZIP):
                with gzip.open(file) as unpacked:
                    yield from _READERS[Path(kind.removesuffix(_GZIP)).suffix](Text(unpacked, name))
            else:
                yield from _READERS[Path(kind).suffix](Text(file, name))
    except OSError as error:
        raise InvalidRecord(
            "file", f"{name}: a file that can't be read ({error.strerror})", "a readable file"
        ) from error
