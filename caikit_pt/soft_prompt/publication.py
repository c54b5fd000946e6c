"""A directory appears under its name in one piece, or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from caikit_pt.errors import InvalidParameter

_PUBLISHING = threading.Lock()
_TRIES_TO_SEE, _SECONDS_BETWEEN_TRIES = 2, 0.02
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def replacing(target: Path, mark: str = "", check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A new directory beside `target` to write into; afterwards it is `target`.

    A model that was there is replaced; anything else raises InvalidParameter. Files are on disk before the
    name appears. Where the body raises, nothing changes and nothing is left behind; what a process that was
    killed has left behind goes with the next try of the same `mark`. Where `check` raises, before it has its
    name or right after, all is as before: whoever stood still in between may have lost the right to it.
    """
    target = target.absolute()
    check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = mark or _mark()
    new = _new(target, mark)
    old = target.with_name(f".{target.name}.{mark}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        to_disk(new)
        check()
        with _PUBLISHING:
            was_there, own = target.exists(), new.stat().st_ino
            _exchange(new, target, old)
            before = old if old.exists() else new if was_there else None
        _check_again(check, own, new, target, before)
        sync(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def adding(target: Path) -> Iterator[Path]:
    """As `replacing`, where nothing has the name. Raises FileExistsError where something has, also where it
    came while the body ran; what is there stays as it is."""
    target = target.absolute()
    _check_absent(target)
    hidden = _new(target, _mark())
    # Of its name, which errors tell.
    new = hidden / target.name
    try:
        new.mkdir(parents=True)
        yield new
        to_disk(new)
        with _PUBLISHING:
            _check_absent(target)
            new.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publication_of(directory: Path) -> tuple[int, int] | None:
    """What tells one publication in `directory` from the next, which is another directory; None where there
    is none."""
    for left in reversed(range(_TRIES_TO_SEE)):
        try:
            found = os.stat(directory)
            return found.st_ino, found.st_mtime_ns
        except FileNotFoundError:
            # Where a file system can't exchange two names, the old one is away for a moment.
            if left:
                time.sleep(_SECONDS_BETWEEN_TRIES)
    return None


def remove(target: Path) -> None:
    """The directory `target` has its name no longer, at once; its files go then. Raises FileNotFoundError
    where nothing has it, OSError."""
    old = target.with_name(f".{target.name}.{_mark()}.old")
    with _PUBLISHING:
        target.rename(old)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(target: Path, field: str = "model_path") -> None:
    """Raises InvalidParameter where `target` holds anything but an earlier model."""
    if not os.path.lexists(target) or (target / "config.yml").is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        allowed = "a new or empty directory, or that of a model, which is replaced"
        raise InvalidParameter(field, target.name, allowed)


def _check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target.name)


def _new(target: Path, mark: str) -> Path:
    """Where it is written; no model has a name with a dot in front."""
    return target.with_name(f".{target.name}.{mark}.new")


def _mark() -> str:
    return uuid.uuid4().hex[:12]


def _exchange(new: Path, target: Path, old: Path) -> None:
    """`new` becomes `target`, at once where the system can; what was there has the name `new` then.

    Where it can't, a job can be ended between any two lines: what was there comes back.
    """
    if target.exists() and _swap(new, target):
        return
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def _check_again(check: Callable[[], None], own: int, new: Path, target: Path, before: Path | None) -> None:
    """Takes back what was published, which has the inode `own`, where `check` raises; what was there `before`
    comes back. What others have published meanwhile stays."""
    try:
        check()
    except BaseException:
        with _PUBLISHING:
            if target.exists() and target.stat().st_ino == own:
                _take_back(new, target, before)
        raise


def _take_back(new: Path, target: Path, before: Path | None) -> None:
    if before is None:
        target.rename(new)
    elif before.exists() and not _swap(before, target):
        aside = target.with_name(f"{before.name}.back")
        target.rename(aside)
        before.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; whether the system and its file system can."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def to_disk(directory: Path) -> None:
    """Everything in `directory` is there after the power fails."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """What `path` holds is there after the power fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
