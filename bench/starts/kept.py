"""Teachers and source prompts of one base model, in a folder by the hash of their recipe, made where they are
missing.

    teachers.MODEL.HASH.safetensors     TASK.PART: the plain prompt of each source task
    source.RECIPE.MODEL.HASH/source/1/  a bundle, so that the directory above can be a source_prompt_base
    source.RECIPE.MODEL.HASH/way.safetensors    the source at each quarter of its updates, as SHARE.TENSOR

They are those that `tune_source` makes of the same plan. A training that is cut off goes on.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from bench.quality.task import Record
from bench.starts.known import known, short_hash
from bench.starts.recipe import DEFAULT, Recipe
from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.model import BaseModel
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_manifest import SourceTask, data_sha256
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.source_tuning import SourceTuning
from caikit_pt.tuning.teachers import Teachers

_LOG = logging.getLogger(__name__)
SOURCE = "source"
# The shares of its updates at which a source is kept on its way, in percent.
QUARTERS = (25, 50, 75, 100)
_WAY = "way.safetensors"
_TENSORS = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")
_SNAPSHOT_SECONDS = 60.0


class Kept:
    """Those of `base` in `folder`, trained on `records` by task. `also` is requested of every training."""

    def __init__(
        self,
        folder: Path,
        base: BaseModel,
        records: Mapping[str, Sequence[Record]],
        also: Mapping[str, Any],
    ) -> None:
        self._folder, self._base, self._records, self._also = folder, base, records, also
        self._plans: dict[str, SourcePlan] = {}
        self._digests: dict[str, str] = {}
        self._sources: dict[str, SourcePrompt] = {}

    # ---- what they are known by, which needs none of them ----

    def digest(self, recipe: Recipe) -> str:
        """A short hash of all that decides what the source of `recipe` is."""
        if recipe.name not in self._digests:
            plan = self.plan(recipe)
            told = [known(plan.parameters.to_dict()), _of_tasks(plan, plan.tasks)]
            self._digests[recipe.name] = short_hash(told)
        return self._digests[recipe.name]

    @cached_property
    def teachers_digest(self) -> str:
        """The same of the teachers."""
        return short_hash(_of_tasks(self.plan(DEFAULT), self.plan(DEFAULT).teachers))

    def plan(self, recipe: Recipe) -> SourcePlan:
        """That of a source training."""
        if recipe.name not in self._plans:
            request = {"base_model": self._base.checkpoint.name, **self._also, **recipe.request}
            streams = [TaskData(name=name, records=records) for name, records in self._records.items()]
            self._plans[recipe.name] = make_source_plan(request, streams, Settings(), self._base)
        return self._plans[recipe.name]

    # ---- what they are ----

    @property
    def initial(self) -> SoftPrompt:
        """What every teacher has started from."""
        (parameters, *_) = (plan.parameters for plan in self.plan(DEFAULT).teachers.values())
        generator = torch.Generator().manual_seed(parameters.seed)
        return initial_prompt(Start(self._base, parameters, generator, None))

    @cached_property
    def teachers(self) -> dict[str, SoftPrompt]:
        """The plain prompt of each source task."""
        file = self._folder / f"teachers.{self._base.checkpoint.name}.{self.teachers_digest}.safetensors"
        with self._alone(file):
            if not file.exists():
                self._train_teachers(file)
        tensors, parts = load_file(file), self._base.checkpoint.prompt_parts
        return {
            name: SoftPrompt({part: tensors[key] for part in parts if (key := f"{name}.{part}") in tensors})
            for name in self._records
        }

    def source(self, recipe: Recipe) -> SourcePrompt:
        """The source prompt that the training by `recipe` has kept."""
        if recipe.name not in self._sources:
            self._sources[recipe.name] = SourceLibrary(self.library(recipe)).read(SOURCE)
        return self._sources[recipe.name]

    def library(self, recipe: Recipe) -> Path:
        """A directory of source prompts whose only one is `recipe`'s, called `source`."""
        directory = self._directory(recipe)
        with self._alone(directory):
            if not (directory / SOURCE).exists():
                self._train_source(recipe, directory)
        return directory

    def way(self, recipe: Recipe) -> list[SourcePrompt]:
        """The source as it was at each quarter of its updates."""
        directory = self._directory(recipe)
        with self._alone(directory):
            if not (directory / _WAY).exists():
                self._train_source(recipe, directory)
        tensors = load_file(directory / _WAY)
        last = self.source(recipe)
        found = []
        for share in QUARTERS:
            shared, columns, rows = (tensors[f"{share}.{name}"] for name in _TENSORS)
            found.append(replace(last, shared=shared, columns=columns, rows=rows, manifest=None))
        return found

    # ---- how they are made ----

    def _directory(self, recipe: Recipe) -> Path:
        name = f"{SOURCE}.{recipe.name}.{self._base.checkpoint.name}.{self.digest(recipe)}"
        return self._folder / name

    def _train_teachers(self, file: Path) -> None:
        _LOG.warning("the teachers of %s are trained", self._base.checkpoint.name)
        teachers = Teachers(self.plan(DEFAULT).teachers, self._base, _ignore, _ignore)

        def update() -> None:
            teachers.update(gradients)

        with _snapshots(file) as snapshots:
            state = snapshots.newest()
            teachers.load_state_dict(state) if state else teachers.begin()
            _drive(teachers, lambda: teachers.at, update, snapshots)
            found = zip(self._records, teachers.kept(), strict=True)
            save_file(
                {f"{name}.{part}": rows for name, one in found for part, rows in one.tensors.items()}, file
            )

    def _train_source(self, recipe: Recipe, directory: Path) -> None:
        plan = self.plan(recipe)
        tuning = SourceTuning(plan, self._base, _ignore, _ignore)
        if plan.parameters.has_teachers:
            tuning.learn_from([*self.teachers.values()])
        _LOG.warning("the source %s of %s is trained", recipe.name, self._base.checkpoint.name)
        directory.mkdir(parents=True, exist_ok=True)
        due = {share: ceil(tuning.updates * share / 100) for share in QUARTERS}
        way: dict[str, torch.Tensor] = {}

        def update() -> None:
            tuning.update()
            for share in (share for share, step in due.items() if step == tuning.mixture.at):
                tensors = tuning.state_dict()["learner"]["weights"]
                now = (tensor.detach().clone() for tensor in tensors)
                way.update((f"{share}.{name}", one) for name, one in zip(_TENSORS, now, strict=True))

        with _snapshots(directory) as snapshots:
            if state := snapshots.newest():
                way.update(state.pop("way"))
                tuning.load_state_dict(state)
            _drive(tuning, lambda: tuning.mixture.at, update, snapshots, lambda: {"way": way})
        save_file(way, directory / _WAY)
        if not (directory / SOURCE).exists():
            tasks = [
                SourceTask(
                    name=name,
                    records=len(one.records),
                    data_sha256=data_sha256((record.input, record.output) for record in one.records.items),
                    verbalizer=one.parameters.verbalizer,
                    separator=one.parameters.separator,
                )
                for name, one in plan.tasks.items()
            ]
            SourceLibrary(directory).publish(SOURCE, tuning.kept(), plan.checkpoint, tasks)

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Of several processes one makes what is missing, and the others wait."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Training(Protocol):
    @property
    def over(self) -> bool: ...

    def look(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...


def _drive(
    training: _Training,
    at: Callable[[], int],
    update: Callable[[], None],
    snapshots: Snapshots,
    beside: Callable[[], dict[str, Any]] = dict,
) -> None:
    """To its end, with snapshots that have what is `beside`, too."""
    with no_denormals():
        while not training.over:
            update()
            if snapshots.due:
                training.look()
                snapshots.keep(at(), {**training.state_dict(), **beside()})
        training.look()


@contextmanager
def _snapshots(path: Path) -> Iterator[Snapshots]:
    """Those of what is to be at `path`, gone once it is there."""
    directory = path.with_name(f".{path.name}.snapshots")
    yield Snapshots(directory, _SNAPSHOT_SECONDS)
    shutil.rmtree(directory, ignore_errors=True)


def _of_tasks(plan: SourcePlan, tasks: Mapping[str, Any]) -> list[Any]:
    told: list[Any] = [plan.checkpoint.fingerprint]
    for name, one in tasks.items():
        streams = [stream.digest for stream in (one.records, one.validation) if stream]
        told.append([name, known(one.parameters.to_dict()), streams])
    return told


def _ignore(*_: object) -> None: ...
