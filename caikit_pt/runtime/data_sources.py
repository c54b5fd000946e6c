"""Training files that a request names are read from inside `data_streams.file_source_base` only.

caikit's own sources take the setting as a mere prefix: an absolute path or `..` leaves it. The
messages, field names and numbers are caikit's. The errors have no field yet: whoever reads the stream
knows which one it is.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import caikit
from caikit.core.data_model import DataStream
from caikit.runtime.service_generation.data_stream_source import (
    DirectoryDataStreamSourcePlugin,
    FileDataStreamSourcePlugin,
    FilePluginBase,
    ListOfFilesDataStreamSourcePlugin,
    S3FilesDataStreamSourcePlugin,
)

from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import inside
from caikit_pt.tuning.record_file import ENDINGS, is_record_file, rows


class _Confined(FilePluginBase):
    """Resolves every path inside the root, links followed, and reads it row by row."""

    @classmethod
    def _create_data_stream_from_file(cls, fname: str, element_type: type) -> DataStream:
        path = Path(cls._get_resolved_source_path(fname))
        if not is_record_file(fname) or not path.is_file():
            raise InvalidParameter("file", fname, f"a file whose name ends in {', '.join(ENDINGS)}")
        return DataStream(rows, path, fname)

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


class ConfinedFile(_Confined, FileDataStreamSourcePlugin):
    """One file."""

    name = "ConfinedFileData"


class ConfinedListOfFiles(_Confined, ListOfFilesDataStreamSourcePlugin):
    """Several files."""

    name = "ConfinedListOfFiles"


class RefusedS3Files(S3FilesDataStreamSourcePlugin):
    """Objects in S3, which the messages have a place for, and this server nothing to read them with."""

    name = "RefusedS3Files"

    def to_data_stream(self, *_: Any, **__: Any) -> DataStream:
        """Raises InvalidParameter."""
        raise InvalidParameter(
            "s3files",
            "a file in S3",
            "records inline (jsondata), or a file, list_of_files or directory: S3 isn't supported. Copy the "
            "files into data_streams.file_source_base of the server, or send their records along, as "
            "caikit-pt tune --train FILE does",
        )


class ConfinedDirectory(_Confined, DirectoryDataStreamSourcePlugin):
    """All files of one ending in a directory, in the order of their names."""

    name = "ConfinedDirectory"

    def to_data_stream(self, source_message: Any, element_type: type) -> DataStream:
        """Raises InvalidParameter where there are none."""
        directory = source_message.dirname
        path = Path(self._get_resolved_source_path(directory))
        ending = f".{source_message.extension or 'json'}".lower()
        if not path.is_dir() or ending not in ENDINGS:
            raise InvalidParameter(
                "directory",
                f"{directory}, *{ending}",
                f"a directory, and the ending of its files, one of {', '.join(ENDINGS)}",
            )
        names = sorted(one.name for one in path.iterdir() if one.name.lower().endswith(ending))
        if not names:
            raise InvalidParameter("directory", directory, f"a directory with files that end in {ending}")
        files = [
            self._create_data_stream_from_file(os.path.join(directory, name), element_type) for name in names
        ]
        return DataStream(chain.from_iterable, files)
