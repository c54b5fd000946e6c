"""The source prompts under `source_prompt_base`: found by name or by base model, listed, published."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.parameters.table import LONGEST_NAME
from caikit_pt.paths import check_source_name, inside
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_bundle import (
    MANIFEST,
    is_bundle,
    read_bundle,
    read_manifest,
    write_bundle,
)
from caikit_pt.soft_prompt.source_file import (
    NUMPY,
    PEFT_CONFIG,
    PEFT_FILES,
    object_in,
    read_source_file,
    shape_in,
)
from caikit_pt.soft_prompt.source_manifest import Recipe, SourceManifest, SourceTask
from caikit_pt.soft_prompt.source_place import SourcePlace, is_version, order, place_of, places, versions_in
from caikit_pt.soft_prompt.source_publication import publish_version
from caikit_pt.soft_prompt.tensor_file import SAFETENSORS, TORCH

_LOG = logging.getLogger(__name__)
FIELD = "tuning_config.prompt_tuning_init_source_model"
_MOST_NAMED = 20


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


class SourceLibrary:
    """The source prompts under one root. `field` is what errors call the name of one."""

    def __init__(self, root: str | Path, field: str = FIELD) -> None:
        """Raises InvalidSourcePrompt where the root is no directory."""
        if not root or not Path(root).is_dir():
            raise InvalidSourcePrompt(
                field,
                "",
                "a source prompt, once the setting source_prompt_base (SOURCE_PROMPT_BASE) names a directory",
            )
        self._root, self._field = Path(root), field

    def find(self, name: str, checkpoint: Checkpoint, num_virtual_tokens: int | None = None) -> SourcePrompt:
        """The source prompt called `name`, or where it is empty the one for this base model and, where one of
        them has so many, this number of virtual tokens.

        Raises InvalidSourcePrompt where there is none, where it isn't whole, or is for another base model.
        """
        place = self._place(name) if name else self._chosen(checkpoint, num_virtual_tokens)
        card = self.card(place)
        if card.is_for(checkpoint) is False:
            recorded = " ".join(filter(None, (card.base_model, card.fingerprint)))
            raise self._refused(
                place.name,
                f"a source prompt for {checkpoint.name} {checkpoint.fingerprint}; this one is for {recorded}",
            )
        source = self._read(place)
        self._check(source, place.name, checkpoint)
        return source

    def read(self, name: str) -> SourcePrompt:
        """The source prompt called `name`, whichever base model it is for. Raises InvalidSourcePrompt."""
        return self._read(self._place(name))

    def cards(self, after: str = "") -> Iterator[SourceCard]:
        """All there are, by name, the newest version of each first; `after` the name of one, that and those
        before it left out."""
        for place in places(self._root):
            if not after or order(place.name) > order(after):
                yield self.card(place)

    def card(self, place: SourcePlace) -> SourceCard:
        """What is known of the source at `place`."""
        try:
            return _card(place, self._root)
        except UnusableSource as error:
            return SourceCard(place.name, place.version, problem=error.wrong)

    def card_of(self, name: str) -> SourceCard:
        """What is known of the source called `name`. Raises InvalidSourcePrompt where there is none."""
        return self.card(self._place(name))

    def publish(
        self,
        name: str,
        source: SourcePrompt,
        checkpoint: Checkpoint,
        tasks: Sequence[SourceTask] = (),
        recipe: Recipe | None = None,
        default: bool = False,
    ) -> SourcePrompt:
        """Publishes `source`, which was made on `checkpoint`, as a new version of `name`; as it is found now.

        What isn't given is taken from its manifest, where it has one. Raises InvalidSourcePrompt for a name
        that can't be, for a source that doesn't go with the base model or isn't whole; OSError.
        """
        target = self._target(name)
        self._check(source, name, checkpoint)
        if not source.is_finite:
            raise self._refused(name, "a source prompt of finite numbers")
        own = source.manifest
        tasks = tasks or (own.tasks if own else _tasks(source))
        recipe = recipe if recipe is not None else (own.recipe if own else {})

        def write(directory: Path) -> None:
            write_bundle(
                source, checkpoint, directory, tasks, recipe, own.libraries if own else None, default
            )

        try:
            version = publish_version(target, write)
        except UnusableSource as error:
            raise self._refused(name, str(error)) from error
        return self.read(f"{name}/{version}")

    # ---- names ----

    def _place(self, name: str) -> SourcePlace:
        """Raises InvalidSourcePrompt."""
        place = place_of(self._root, name, self._field)
        if place is None:
            raise self._refused(
                name,
                f"a {SAFETENSORS} file, a peft directory or a published source prompt under "
                f"source_prompt_base (there: {self._names or 'none yet'})",
            )
        return place

    def _target(self, name: str) -> Path:
        """The directory of all versions of `name`. Raises InvalidSourcePrompt where it can't be that."""
        check_source_name(name, self._field, InvalidSourcePrompt)
        if any(map(is_version, PurePosixPath(name).parts)) or name.endswith((SAFETENSORS, *TORCH)):
            raise self._refused(
                name,
                f"a name without a number alone, as versions have it, that doesn't end in {SAFETENSORS}, "
                f"{', '.join(TORCH)}",
            )
        there = place_of(self._root, name, self._field)
        if there is not None and not there.version:
            raise self._refused(
                name, "another name; this is that of a file or a directory that is no published source prompt"
            )
        return inside(self._root, name, self._field, InvalidSourcePrompt)

    @cached_property
    def _names(self) -> str:
        names = dict.fromkeys(place.unversioned for place in places(self._root) if place.name.isprintable())
        return ", ".join(list(names)[:_MOST_NAMED])

    # ---- choice ----

    def _chosen(self, checkpoint: Checkpoint, num_virtual_tokens: int | None) -> SourcePlace:
        """The one that is called the default; else the newest that is published, or the only one there is.

        Of each name its newest version counts. Raises InvalidSourcePrompt.
        """
        newest: dict[str, SourcePlace] = {}
        for place in places(self._root):
            newest.setdefault(place.unversioned, place)
        cards = {place: self.card(place) for place in newest.values()}
        for card in cards.values():
            if card.problem:
                _LOG.warning("The source prompt %s is passed over: %s", card.name, card.problem)
        matching = {place: card for place, card in cards.items() if card.is_for(checkpoint)}
        # Where none has so many tokens, the plan says how many there are.
        fitting = {place: card for place, card in matching.items() if card.has_tokens(num_virtual_tokens)}
        fitting = fitting or matching
        called = [place for place, card in fitting.items() if card.default]
        if len(called) == 1:
            return called[0]
        published = [(card.created, card.name, place) for place, card in fitting.items() if card.created]
        if published and not called:
            return max(published, key=lambda one: one[:2])[2]
        if len(fitting) == 1:
            return next(iter(fitting))
        names = ", ".join(place.name for place in matching) or "none"
        raise self._refused(
            "",
            f"a name; {len(called)} sources are the default of {checkpoint.name} (its sources: {names})",
        )

    # ---- what is there ----

    def _read(self, place: SourcePlace) -> SourcePrompt:
        try:
            if place.is_bundle:
                return read_bundle(place.path, place.name)
            return read_source_file(place.path, place.name, tasks=self.card(place).tasks)
        except UnusableSource as error:
            raise self._refused(place.name, str(error)) from error

    def _check(self, source: SourcePrompt, name: str, checkpoint: Checkpoint) -> None:
        """Raises InvalidSourcePrompt for what doesn't go with the base model."""
        try:
            source.check_base(checkpoint)
        except UnusableSource as error:
            raise self._refused(name, str(error)) from error

    def _refused(self, name: str, allowed: str) -> InvalidSourcePrompt:
        return InvalidSourcePrompt(self._field, name, allowed)


def find_source(
    name: str, checkpoint: Checkpoint, settings: Settings, num_virtual_tokens: int | None = None
) -> SourcePrompt:
    """`SourceLibrary.find` of the directory that the settings name. Raises InvalidSourcePrompt."""
    return SourceLibrary(settings.source_prompt_base).find(name, checkpoint, num_virtual_tokens)


def read_path(path: Path, submodules: int = 0) -> SourcePrompt:
    """The source prompt at any path: a bundle or the directory of its versions, a directory of peft, or a
    file (also .npy). With `submodules` 0 it has as many sides as it says, else one. Raises UnusableSource."""
    if not path.is_dir():
        if not path.is_file():
            raise UnusableSource("a file, or a directory; there is none")
        return read_source_file(path, path.name, submodules, _names_of(_manifest_beside(path, path.parent)))
    if is_bundle(path):
        return read_bundle(path, path.name)
    for file in (path / one for one in PEFT_FILES):
        if file.is_file():
            return read_source_file(file, path.name, submodules, _names_of(_manifest_beside(file, path)))
    newest = versions_in(path)
    if newest:
        return read_bundle(path / str(newest[0]), path.name)
    raise UnusableSource(
        f"a directory with {' or '.join(PEFT_FILES)} in it, or a file that ends in {SAFETENSORS}, "
        f"{', '.join(TORCH)} or {NUMPY}"
    )


def _card(place: SourcePlace, root: Path) -> SourceCard:
    """Raises UnusableSource."""
    if place.is_bundle:
        manifest = read_manifest(place.path)
        return SourceCard(
            place.name,
            place.version,
            manifest.base_model,
            manifest.fingerprint,
            manifest.num_virtual_tokens,
            manifest.width,
            manifest.task_names,
            manifest.default,
            manifest.created,
            manifest,
        )
    told = _manifest_beside(place.path, root)
    tokens, width = shape_in(place.path) or (0, 0)
    return SourceCard(
        place.name,
        place.version,
        _text(told, "base_model"),
        _text(told, "fingerprint"),
        tokens,
        width,
        _names_of(told),
        told.get("default") is True,
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


def _tasks(source: SourcePrompt) -> list[SourceTask]:
    """Those of a source that says no more of them than their names, or not even these."""
    names = source.tasks or [f"task-{index}" for index in range(source.num_tasks)]
    return [SourceTask(name=name) for name in names]


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
