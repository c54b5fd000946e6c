"""A directory appears under its name in one piece, or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caikit_pt.errors import InvalidParameter

_PUBLISHING = threading.Lock()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new directory beside `target` to write into; afterwards it is `target`.

    A model that was there is replaced; anything else raises InvalidParameter. Files are on disk
    before the name appears. Where the body raises, nothing changes and nothing is left behind.
    """
    target = target.absolute()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:12]
    new = target.with_name(f".{target.name}.{mark}.new")
    old = target.with_name(f".{target.name}.{mark}.old")
    new.mkdir()
    try:
        yield new
        _to_disk(new)
        with _PUBLISHING:
            _exchange(new, target, old)
        _sync(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    """Raises InvalidParameter where `target` holds anything but an earlier model."""
    if not target.exists() or (target / "config.yml").is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise InvalidParameter(
            "model_path", target.name, "a new or empty directory, or that of a model, which is replaced"
        )


def _exchange(new: Path, target: Path, old: Path) -> None:
    """`new` becomes `target`. A job can be ended between any two lines: what was there comes back."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def _to_disk(directory: Path) -> None:
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
