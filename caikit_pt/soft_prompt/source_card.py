"""What is known of a source prompt before its tensors are read: its manifest, or what stands beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.parameters.table import LONGEST_NAME
from caikit_pt.soft_prompt.source import UnusableSource
from caikit_pt.soft_prompt.source_bundle import MANIFEST, read_manifest
from caikit_pt.soft_prompt.source_file import PEFT_CONFIG, PEFT_FILES, object_in, shape_in
from caikit_pt.soft_prompt.source_manifest import SourceManifest
from caikit_pt.soft_prompt.source_place import SourcePlace


@dataclass(frozen=True, slots=True)
class SourceCard:
    """What is known of a source prompt before its tensors are read; what isn't is empty, 0 or None.

    `manifest` is that of a bundle, and `problem` what is wrong with one that can't be used.
    """

    name: str
    version: int
    base_model: str = ""
    fingerprint: str = ""
    num_virtual_tokens: int = 0
    width: int = 0
    tasks: tuple[str, ...] = ()
    default: bool = False
    created: datetime | None = None
    manifest: SourceManifest | None = None
    problem: str = ""

    def is_for(self, checkpoint: Checkpoint) -> bool | None:
        """Whether it is for this base model; None where it doesn't say."""
        if self.fingerprint:
            return self.fingerprint == checkpoint.fingerprint
        if self.base_model:
            return _last_part(self.base_model) == _last_part(checkpoint.name)
        return None

    def has_tokens(self, asked: int | None) -> bool:
        """Whether it may have as many virtual tokens as are asked for."""
        return not asked or self.num_virtual_tokens in (0, asked)


def card_at(place: SourcePlace, root: Path) -> SourceCard:
    """What is known of the source at `place`, in the library at `root`."""
    try:
        return _card(place, root)
    except UnusableSource as error:
        return SourceCard(place.name, place.version, problem=error.wrong)


def tasks_beside(file: Path, root: Path) -> tuple[str, ...]:
    """The names of the tasks in a file of tensors, by what stands beside it; none where that has none."""
    return _names_of(_manifest_beside(file, root))


def _card(place: SourcePlace, root: Path) -> SourceCard:
    """Raises UnusableSource."""
    if place.is_bundle:
        manifest = read_manifest(place.path)
        return SourceCard(
            place.name,
            place.version,
            base_model=manifest.base_model,
            fingerprint=manifest.fingerprint,
            num_virtual_tokens=manifest.num_virtual_tokens,
            width=manifest.width,
            tasks=manifest.task_names,
            default=manifest.default,
            created=manifest.created,
            manifest=manifest,
        )
    told = _manifest_beside(place.path, root)
    tokens, width = shape_in(place.path) or (0, 0)
    return SourceCard(
        place.name,
        place.version,
        base_model=_text(told, "base_model"),
        fingerprint=_text(told, "fingerprint"),
        num_virtual_tokens=tokens,
        width=width,
        tasks=_names_of(told),
        default=told.get("default") is True,
    )


def _manifest_beside(file: Path, root: Path) -> Mapping[str, object]:
    """What stands beside a file of tensors about it, in this project's words; empty where nothing does, or
    what does is a link out of `root`."""
    if file.name not in PEFT_FILES:
        return _object_within(root, file.with_suffix(".json"))
    base = _object_within(root, file.parent / PEFT_CONFIG).get("base_model_name_or_path")
    return _object_within(root, file.parent / MANIFEST) or ({"base_model": base} if base else {})


def _object_within(root: Path, file: Path) -> Mapping[str, object]:
    real, real_root = os.path.realpath(file), os.path.realpath(root)
    return object_in(Path(real)) if Path(real).is_relative_to(real_root) else {}


def _names_of(told: Mapping[str, object]) -> tuple[str, ...]:
    tasks = told.get("tasks")
    return tuple(tasks) if isinstance(tasks, list) and all(map(_is_told, tasks)) else ()


def _text(told: Mapping[str, object], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) and _is_told(value) else ""


def _is_told(value: object) -> bool:
    """Whether it is a text that others can be told."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
