"""Each publication of a source prompt is a new version, a directory that appears in one piece and stays.

Those who publish under one name take turns by a lock that the system lets go of when its holder dies. What a
process that was killed has left behind begins with a dot, and goes with the next publication.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from caikit_pt.soft_prompt.publication import sync, to_disk
from caikit_pt.soft_prompt.source_place import versions_in

_LOCK, _NEW = ".lock", ".new"
# What a rename ends with where its target is there.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def publish_version(
    target: Path, write: Callable[[Path], object], known: Callable[[], int | None] = lambda: None
) -> int:
    """A new directory in `target` that `write` fills; its number, or that of the one that is `known` already.
    Nothing is left where `write` raises.

    Its files are on disk before it has a name that anybody looks for. Raises OSError.
    """
    made = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if (version := known()) is not None:
            return version
        for left in target.glob(f".*{_NEW}"):
            shutil.rmtree(left, ignore_errors=True)
        new = target / f".{uuid.uuid4().hex[:12]}{_NEW}"
        new.mkdir()
        try:
            write(new)
            to_disk(new)
            version = _numbered(new, target)
            for path in (target, *(one.parent for one in made)):
                sync(path)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return version


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Nobody else who asks for it is in here with this `target`."""
    lock = os.open(target / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _numbered(new: Path, target: Path) -> int:
    """`new` becomes the version behind the newest. A rename puts nothing in the place of what is there, be it
    that somebody publishes without the lock."""
    version = max(versions_in(target), default=0) + 1
    while True:
        try:
            new.rename(target / str(version))
            return version
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            version += 1
