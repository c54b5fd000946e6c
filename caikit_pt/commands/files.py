"""Files that a command is given: records, pictures, and what else is written."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from caikit_pt.commands.outcome import WrongCommand
from caikit_pt.errors import InvalidRecord
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURE = ".png"


def records_of(file: Path, stream: str, asked: Asked) -> Records:
    """Raises WrongCommand."""
    try:
        records = read_records(rows(file, str(file)), stream, asked)
    except InvalidRecord as error:
        raise WrongCommand(in_file(file, error)) from None
    for doubt in field_doubts(records):
        print(f"{file}: {doubt.replace(f' of {stream}', '')}", file=sys.stderr)
    return records


def in_file(file: Path, error: InvalidRecord) -> str:
    """What is wrong with a record of `file`."""
    told = str(error.value)
    return f"{told if told.startswith(str(file)) else f'{file}: {told}'}. Expected: {error.allowed}"


def check_picture(file: Path | None) -> None:
    """Raises WrongCommand where none can be drawn, or written to `file`: before anything is asked for."""
    if find_spec("matplotlib") is None:
        raise WrongCommand("plots need matplotlib: install caikit-pt[plot]")
    if file is not None:
        check_writable(file)
        if file.suffix.lower() != _PICTURE:
            raise WrongCommand(
                f"{file} can't be drawn: pictures are PNG, in files whose names end in {_PICTURE}"
            )


def check_writable(file: Path) -> None:
    """Raises WrongCommand where it can't be written: before anything is asked for."""
    if (
        file.is_dir()
        or not file.parent.is_dir()
        or not os.access(file if file.exists() else file.parent, os.W_OK)
    ):
        raise WrongCommand(
            f"{file} can't be written: name a file in a directory that there is, and that is yours"
        )


def write(file: Path, text: str) -> None:
    """Raises WrongCommand."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise WrongCommand(f"{file} can't be written: {error.strerror}") from error


def draw(figure: Figure, file: Path) -> None:
    """Raises WrongCommand."""
    try:
        figure.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise WrongCommand(f"{file} can't be written: {error.strerror}") from error
