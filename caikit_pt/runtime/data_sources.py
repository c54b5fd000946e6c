"""Training files that a request names are read from inside `data_streams.file_source_base` only.

caikit's own sources take the setting as a mere prefix: an absolute path or `..` leaves it. The
messages, field names and numbers are caikit's. The errors have no field yet: whoever reads the stream
knows which one it is.
"""

from __future__ import annotations

from pathlib import Path

import caikit
from caikit.runtime.service_generation.data_stream_source import (
    DirectoryDataStreamSourcePlugin,
    FileDataStreamSourcePlugin,
    FilePluginBase,
    ListOfFilesDataStreamSourcePlugin,
)

from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import inside


class _Confined(FilePluginBase):
    """Resolves every path inside the root, links followed."""

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


class ConfinedDirectory(_Confined, DirectoryDataStreamSourcePlugin):
    """All files of one kind in a directory."""

    name = "ConfinedDirectory"
