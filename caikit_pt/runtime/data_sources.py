"""Training files that a request names are read from inside `data_streams.file_source_base` only.

caikit's own sources take the setting as a mere prefix: an absolute path or `..` leaves it. The
messages, field names and numbers are caikit's. The errors have no field yet: whoever reads the stream
knows which one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import caikit
from caikit.core.data_model import DataStream
from caikit.core.data_model.base import DataBase
from caikit.runtime.service_generation.data_stream_source import (
    DirectoryDataStreamSourcePlugin,
    FileDataStreamSourcePlugin,
    FilePluginBase,
    ListOfFilesDataStreamSourcePlugin,
)

from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import inside

_ENDINGS = (".jsonl", ".json", ".csv")


class _Confined(FilePluginBase):
    """Resolves every path inside the root, links followed, and knows a kind of file by its ending."""

    @classmethod
    def _create_data_stream_from_file(cls, fname: str, element_type: type) -> DataStream:
        path = Path(cls._get_resolved_source_path(fname))
        if path.suffix not in _ENDINGS or not path.is_file():
            raise InvalidParameter("file", fname, f"a file whose name ends in {', '.join(_ENDINGS)}")
        return super()._create_data_stream_from_file(fname, element_type)

    @staticmethod
    def _to_element_partial(element_type: type) -> Callable[[Any], Any]:
        return partial(_to_element, element_type)

    @staticmethod
    def _get_resolved_source_path(input_path: str) -> str:
        root = caikit.get_config().data_streams.file_source_base
        if not root:
            raise InvalidParameter(
                "file",
                input_path,
                "inline records, until the setting data_streams.file_source_base names the "
                "directory that training files may be read from",
            )
        path = Path(root).resolve() if input_path == "." else inside(root, input_path, "file")
        if not path.exists():
            raise InvalidParameter("file", input_path, "a file or directory in data_streams.file_source_base")
        return str(path)


def _to_element(element_type: type, raw: Any) -> Any:
    """A record with the names, too, of the fields that caikit drops."""
    element = FilePluginBase._to_element_type(element_type, raw)
    if not isinstance(element, DataBase):
        return element
    return {**dict.fromkeys(raw), **{name: getattr(element, name) for name in element.fields}}


class ConfinedFile(_Confined, FileDataStreamSourcePlugin):
    """One file."""

    name = "ConfinedFileData"


class ConfinedListOfFiles(_Confined, ListOfFilesDataStreamSourcePlugin):
    """Several files."""

    name = "ConfinedListOfFiles"


class ConfinedDirectory(_Confined, DirectoryDataStreamSourcePlugin):
    """All files of one kind in a directory."""

    name = "ConfinedDirectory"
