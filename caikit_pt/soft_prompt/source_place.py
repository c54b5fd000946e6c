"""Where source prompts lie under their root: a name becomes a file or a directory, and the other way round.

    NAME/1, NAME/2 ...          published bundles; NAME alone is the newest
    NAME.safetensors, NAME.bin  a file of tensors (.bin and .pt by their whole names)
    NAME/                       a directory of peft

A name may have directories in front: GROUP/NAME. What begins with a dot is nobody's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.paths import inside
from caikit_pt.soft_prompt.source_bundle import FILES, MANIFEST, is_bundle
from caikit_pt.soft_prompt.source_file import PEFT_FILES, is_of_bundle
from caikit_pt.soft_prompt.tensor_file import SAFETENSORS, TORCH

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """One source prompt: the directory of a bundle, or a file of tensors. `version` is 0 where there are
    none, and the last part of the `name` else."""

    name: str
    path: Path
    is_bundle: bool
    version: int = 0

    @property
    def unversioned(self) -> str:
        """The name that all versions of a source have in common."""
        return self.name.rpartition("/")[0] if self.version else self.name


def is_version(part: str) -> bool:
    """Whether a part of a name is the number of a version."""
    return bool(_VERSION.fullmatch(part))


def versions_in(directory: Path) -> list[int]:
    """The versions in the directory of a name, the newest first."""
    try:
        return sorted((int(path.name) for path in directory.iterdir() if is_version(path.name)), reverse=True)
    except OSError:
        return []


def place_of(root: Path, name: str, field: str) -> SourcePlace | None:
    """Where the source prompt `name` lies; None where there is none.

    Raises InvalidSourcePrompt where `name` leads out of the root, by itself or through a link, and OSError
    for what may not be read.
    """
    path = inside(root, name, field, InvalidSourcePrompt)
    name = PurePosixPath(name).as_posix()
    if any(part.startswith(".") for part in PurePosixPath(name).parts):
        return None
    for candidate in (name, name + SAFETENSORS):
        file = inside(root, candidate, field, InvalidSourcePrompt)
        if file.is_file():
            return SourcePlace(name, file, False) if file.suffix in (SAFETENSORS, *TORCH) else None
    found = _in_directory(root, name, field)
    if found or not path.is_dir():
        return found
    versions = (_in_directory(root, f"{name}/{version}", field) for version in versions_in(path))
    return next(filter(None, versions), None)


def places(root: Path) -> Iterator[SourcePlace]:
    """All there are, by name, of each name the newest version first. No link to a directory is followed."""
    root = root.resolve()
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [one for one in folders if not one.startswith(".")]
        directory = Path(folder)
        own = _of_directory(root, directory)
        if own is not None:
            found.append(own)
        found += _of_files(root, directory, files)
    yield from sorted(found, key=lambda place: order(place.name))


def order(name: str) -> tuple[str, int]:
    """What names are sorted by."""
    before, slash, last = name.rpartition("/")
    return (before, -int(last)) if slash and is_version(last) else (name, 0)


def _in_directory(root: Path, name: str, field: str) -> SourcePlace | None:
    directory = inside(root, name, field, InvalidSourcePrompt)
    last = PurePosixPath(name).name
    version = int(last) if is_version(last) and "/" in name else 0
    if is_bundle(directory):
        return SourcePlace(name, directory, True, version)
    for one in PEFT_FILES:
        file = inside(root, f"{name}/{one}", field, InvalidSourcePrompt)
        if file.is_file():
            of_bundle = is_of_bundle(file)
            return SourcePlace(name, directory if of_bundle else file, of_bundle, version)
    return SourcePlace(name, directory, True, version) if _is_rest(directory, version) else None


def _is_rest(directory: Path, version: int) -> bool:
    """Whether it is what is left of a bundle, as of a copy that was broken off: that isn't passed over."""
    if not directory.is_dir():
        return False
    there = {path.name for path in directory.iterdir()}
    return bool(there & set(FILES)) or bool(version and not there)


def _of_directory(root: Path, directory: Path) -> SourcePlace | None:
    """The source that a directory as a whole is."""
    if directory == root:
        return None
    try:
        return _in_directory(root, directory.relative_to(root).as_posix(), "source")
    except (InvalidSourcePrompt, OSError):
        return None


def _of_files(root: Path, directory: Path, files: list[str]) -> Iterator[SourcePlace]:
    """The files of tensors in a directory, but for those that the directory is told of by."""
    for one in files:
        file = directory / one
        if file.suffix not in (SAFETENSORS, *TORCH) or one in (*PEFT_FILES, MANIFEST) or one.startswith("."):
            continue
        named = file.with_suffix("") if file.suffix == SAFETENSORS else file
        name = named.relative_to(root).as_posix()
        try:
            found = place_of(root, name, "source")
        except (InvalidSourcePrompt, OSError):
            # A link that leads out, or nothing that may be read.
            continue
        if found is not None and not found.is_bundle:
            yield found
