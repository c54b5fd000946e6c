"""Names in a request become paths inside a root, or are refused; what lies there is read if it is a file."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import tempfile
from pathlib import Path

from caikit_pt.errors import CaikitPtError, InvalidParameter, OutOfMemory, TooManyOpenFiles

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

# Beyond these a file system answers with an error of its own.
MAX_NAME_BYTES = 240
_MAX_PATH_BYTES = 1024
# As the system says it, and as libraries that have no number for it hand it on.
_NO_DESCRIPTOR, _NO_DESCRIPTOR_TOLD = (errno.EMFILE, errno.ENFILE), "Too many open files"
_NO_MEMORY_TOLD = "Cannot allocate memory"


def inside(root: str | Path, name: str, field: str, error: type[InvalidParameter] = InvalidParameter) -> Path:
    """The real path of `name` under `root`, with every symbolic link followed.

    The path need not exist. Raises `error` where `name` is empty or absolute, or leads out of the
    root by `..` or through a link.
    """
    allowed = "a path relative to its root that stays inside it"
    parts = Path(name).parts
    if not name or "\0" in name or Path(name).is_absolute() or ".." in parts:
        raise error(field, name, allowed)
    if _size(name) > _MAX_PATH_BYTES or any(_size(part) > MAX_NAME_BYTES for part in parts):
        raise error(field, name, f"a path of up to {_MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} a part")
    real_root = Path(root).resolve()
    try:
        path = (real_root / name).resolve()
    except (OSError, RuntimeError) as looped:
        raise error(field, name, "a path whose symbolic links lead somewhere") from looped
    except UnicodeEncodeError:
        raise error(field, name, allowed) from None
    if path == real_root or not path.is_relative_to(real_root):
        raise error(field, name, allowed)
    return path


def _size(name: str) -> int:
    """In bytes; names in a file system needn't be text."""
    return len(name.encode("utf-8", "surrogatepass"))


def open_file(path: Path) -> io.BufferedReader:
    """The regular file at `path`, to be read in bytes. Raises OSError, also where something else lies there;
    TooManyOpenFiles and OutOfMemory, which say nothing of the file.

    A pipe would be waited for until somebody writes, and a device for ever. It is opened, which nothing waits
    for, before it is looked at: so nobody can put another one into its place in between.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        check_scarcity(error)
        raise
    try:
        _check_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_scarcity(error: BaseException) -> None:
    """Raises what `scarcity` makes of `error`, if anything."""
    told = scarcity(error)
    if told is not None:
        raise told from error


def scarcity(error: BaseException | None) -> CaikitPtError | None:
    """TooManyOpenFiles or OutOfMemory where `error`, or what it comes of, says that nothing can be opened.

    Whatever was to be opened is neither damaged nor wrong.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _NO_DESCRIPTOR or _NO_DESCRIPTOR_TOLD in str(error):
            return TooManyOpenFiles(
                "This server has as many files and connections open as it may (ulimit -n). Try again"
            )
        if number == errno.ENOMEM or _NO_MEMORY_TOLD in str(error):
            return OutOfMemory("The system has no memory to open a file with. Try again")
        error = error.__cause__ or error.__context__
    return None


def check_writable(directory: Path, setting: str, allowed: str) -> None:
    """Before what needs it finds out; the directory is there afterwards. Raises InvalidParameter where it
    can't be written to: `setting` may be what is `allowed`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InvalidParameter(setting, str(directory), f"{allowed} ({error.strerror})") from None


def check_file(path: Path) -> None:
    """For those that open a file by its name alone. Raises OSError where `path` leads to no regular file."""
    _check_regular(path, path.stat())


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path.name)


def read_file(path: Path, largest: int) -> bytes:
    """All of the regular file at `path`. Raises OSError, also where it has more than `largest` bytes."""
    with open_file(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"more than {largest:,} bytes", path.name)
    return content


def check_source_name(name: str, field: str, error: type[InvalidParameter] = InvalidParameter) -> str:
    """`name` if it can be that of a source prompt: plain names with slashes in between.

    Raises `error` where it is empty, too long, or has a part that could be more than a plain name.
    """
    try:
        for part in name.split("/"):
            check_plain_name(part, field)
    except InvalidParameter as refused:
        allowed = f"a name, or names with slashes in between, of {refused.allowed}"
        raise error(field, name, allowed) from None
    if len(name) > _MAX_PATH_BYTES:
        raise error(field, name, f"a name of up to {_MAX_PATH_BYTES:,} characters")
    return name


def check_plain_name(name: str, field: str = "model_name") -> str:
    """`name` if it can be the name of one directory, as those of trained models and ids of trainings are.

    Raises InvalidParameter where it is empty or could be more than a plain name.
    """
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise InvalidParameter(
            field,
            name,
            "1 to 200 letters, digits, '.', '_' and '-', the first a letter or a digit",
        )
    return name
