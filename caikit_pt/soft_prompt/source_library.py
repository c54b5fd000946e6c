"""The source prompts under `source_prompt_base`: found by name or by base model, listed, published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.parameters.tuning import AUTO
from caikit_pt.paths import check_source_name, inside
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_bundle import (
    TENSORS,
    copy_trained,
    is_bundle,
    read_bundle,
    trained_by,
    write_bundle,
)
from caikit_pt.soft_prompt.source_card import SourceCard, card_at, tasks_beside
from caikit_pt.soft_prompt.source_file import NUMPY, PEFT_FILES, is_of_bundle, read_source_file
from caikit_pt.soft_prompt.source_manifest import Recipe, SourceTask
from caikit_pt.soft_prompt.source_place import SourcePlace, is_version, order, place_of, places, versions_in
from caikit_pt.soft_prompt.source_publication import publish_version
from caikit_pt.soft_prompt.tensor_file import SAFETENSORS, TORCH

_LOG = logging.getLogger(__name__)
FIELD = "tuning_config.prompt_tuning_init_source_model"
_MOST_NAMED = 20


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
        if name:
            place = self._place(name)
        else:
            place = self._chosen(checkpoint, self._fitting(checkpoint, num_virtual_tokens))
        card = card_at(place, self._root)
        if card.is_for(checkpoint) is False:
            recorded = " ".join(filter(None, (card.base_model, card.fingerprint)))
            raise self._refused(
                place.name,
                f"a source prompt for {checkpoint.name} {checkpoint.fingerprint}; this one is for {recorded}",
            )
        source = self._read(place)
        self._check(source, place.name, checkpoint)
        return source

    def fitting(self, checkpoint: Checkpoint, num_virtual_tokens: int | None = None) -> list[SourcePrompt]:
        """All source prompts for this base model, of each name the newest version, and where any has this
        number of virtual tokens, those; first the one that `find` finds without a name, where it finds one.

        What is damaged is passed over with a warning. Raises InvalidSourcePrompt where there is none.
        """
        found: dict[str, SourcePrompt] = {}
        first = ""
        fitting = self._fitting(checkpoint, num_virtual_tokens)
        for place, _ in fitting:
            try:
                source = self._read(place)
                self._check(source, place.name, checkpoint)
            except InvalidSourcePrompt as error:
                _LOG.warning("The source prompt %s is passed over: %s", place.name, error)
                continue
            found[place.name] = source
        if not found:
            raise self._refused(AUTO, f"a source prompt for {checkpoint.name}; there is none to choose from")
        with suppress(InvalidSourcePrompt):
            first = self._chosen(checkpoint, fitting).name
        return [found[name] for name in sorted(found, key=lambda name: name != first)]

    def read(self, name: str) -> SourcePrompt:
        """The source prompt called `name`, whichever base model it is for. Raises InvalidSourcePrompt."""
        return self._read(self._place(name))

    def cards(self, after: str = "") -> Iterator[SourceCard]:
        """All there are, by name, the newest version of each first; `after` the name of one, that and those
        before it left out."""
        for place in places(self._root):
            if not after or order(place.name) > order(after):
                yield card_at(place, self._root)

    def card(self, name: str) -> SourceCard:
        """What is known of the source called `name`. Raises InvalidSourcePrompt where there is none."""
        return card_at(self._place(name), self._root)

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

    def publish_trained(
        self, name: str, bundle: Path, training_id: str, default: bool, check: Callable[[], None]
    ) -> str:
        """Publishes the bundle that a training has left in a directory as a new version of `name`, unless
        there is one by the training with this id; the name with its version.

        `check` is called last before that, and what it raises ends it. Raises InvalidSourcePrompt, OSError.
        """
        target = self._target(name)

        def known() -> int | None:
            own = (one for one in versions_in(target) if trained_by(target / str(one)) == training_id)
            return next(iter(own), None)

        def write(directory: Path) -> None:
            copy_trained(bundle, directory, training_id, default)
            check()

        try:
            return f"{name}/{publish_version(target, write, known)}"
        except UnusableSource as error:
            raise self._refused(name, str(error)) from error

    def check_target(self, name: str) -> Path:
        """The directory of all versions of `name`, whether it is there or not. Raises InvalidSourcePrompt
        where nothing can be published as that, whatever it is."""
        return self._target(name)

    # ---- names ----

    def _place(self, name: str) -> SourcePlace:
        """Raises InvalidSourcePrompt."""
        try:
            place = place_of(self._root, name, self._field)
        except OSError as error:
            raise self._refused(name, f"what this server may read ({error.strerror})") from error
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
        if name == AUTO:
            raise self._refused(name, f"another name; {AUTO} lets a training choose its source")
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

    def _chosen(
        self, checkpoint: Checkpoint, fitting: Sequence[tuple[SourcePlace, SourceCard]]
    ) -> SourcePlace:
        """Of those that are `fitting` for the base model the one that is called the default; else the newest
        that is published, or the only one there is. Raises InvalidSourcePrompt."""
        called = [place for place, card in fitting if card.default]
        if len(called) == 1:
            return called[0]
        published = [(card.created, card.name, place) for place, card in fitting if card.created]
        if published and not called:
            return max(published, key=lambda one: one[:2])[2]
        if len(fitting) == 1:
            return fitting[0][0]
        names = ", ".join(place.name for place, _ in fitting) or "none"
        raise self._refused(
            "",
            f"a name; {len(called)} sources are the default of {checkpoint.name} (its sources: {names})",
        )

    def _fitting(self, checkpoint: Checkpoint, tokens: int | None) -> list[tuple[SourcePlace, SourceCard]]:
        """Those for this base model with so many tokens, of each name the newest. Where none has so many,
        those of any number: the plan says how many that is."""
        matching = []
        for place in places(self._root):
            card = card_at(place, self._root)
            if card.problem:
                _LOG.warning("The source prompt %s is passed over: %s", card.name, card.problem)
            if card.is_for(checkpoint):
                matching.append((place, card))
        fitting = [(place, card) for place, card in matching if card.has_tokens(tokens)] or matching
        newest = {place.unversioned: (place, card) for place, card in reversed(fitting)}
        return [newest[name] for name in sorted(newest)]

    # ---- what is there ----

    def _read(self, place: SourcePlace) -> SourcePrompt:
        try:
            if place.is_bundle:
                return read_bundle(place.path, place.name)
            return read_source_file(place.path, place.name, tasks=card_at(place, self._root).tasks)
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
        return read_source_file(path, path.name, submodules, tasks_beside(path, path.parent))
    if is_bundle(path) or is_of_bundle(path / TENSORS):
        return read_bundle(path, path.name)
    for file in (path / one for one in PEFT_FILES):
        if file.is_file():
            return read_source_file(file, path.name, submodules, tasks_beside(file, path))
    newest = versions_in(path)
    if newest:
        return read_bundle(path / str(newest[0]), path.name)
    raise UnusableSource(
        f"a directory with {' or '.join(PEFT_FILES)} in it, or a file that ends in {SAFETENSORS}, "
        f"{', '.join(TORCH)} or {NUMPY}"
    )


def _tasks(source: SourcePrompt) -> list[SourceTask]:
    """Those of a source that says no more of them than their names, or not even these."""
    names = source.tasks or [f"task-{index}" for index in range(source.num_tasks)]
    return [SourceTask(name=name) for name in names]
