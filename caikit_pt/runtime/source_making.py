"""Jobs that make a source prompt, which is published as a new version of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from caikit_pt.runtime.job import Job
from caikit_pt.runtime.making import Making, Terms
from caikit_pt.runtime.source_plan_files import read_source_plan, write_source_plan
from caikit_pt.soft_prompt.publication import replacing
from caikit_pt.soft_prompt.source_bundle import read_manifest
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.source_plan import SourcePlan
from caikit_pt.tuning.source_preflight import SourcePreflight, source_preflight
from caikit_pt.tuning.source_progress import TEACHERS, TaskValidated
from caikit_pt.tuning.source_training import SourceTraining
from caikit_pt.tuning.source_verdict import sentences, source_verdict


class SourceMaking(Making[SourcePlan, SourcePreflight]):
    """The `model_name` of such a job is the name of its source; its `parameters` have `default`, too."""

    def look_through(self, plan: SourcePlan, most: int) -> SourcePreflight:
        """See Making."""
        return source_preflight(plan, most)

    def write(self, plan: SourcePlan, directory: Path) -> None:
        """See Making."""
        write_source_plan(directory, plan)

    def read(self, directory: Path) -> SourcePlan:
        """See Making."""
        return read_source_plan(directory)

    def make(self, plan: SourcePlan, artifact: Path, terms: Terms) -> None:
        """In passes of its own: tasks have theirs together already."""
        training = SourceTraining(plan, terms.device)
        listener = _Listener(terms)
        trained = training.run(listener.updated, listener.validated, terms.snapshots, terms.crew)
        with replacing(artifact) as new:
            trained.write(new)

    def publish(self, job: Job, made: Path, check: Callable[[], None]) -> str:
        """A new version, unless this job has published one."""
        root = Path(job.path).parents[len(PurePosixPath(job.model_name).parts) - 1]
        library = SourceLibrary(root, "name")
        return library.publish_trained(job.model_name, made, job.id, job.parameters["default"], check)

    def place(self, job: Job, name: str) -> Path:
        """See Making."""
        return Path(job.path, PurePosixPath(name).name)

    def verdict(self, made: Path) -> dict[str, Any]:
        """See Making."""
        return source_verdict(read_manifest(made))

    def sentences(self, verdict: Mapping[str, Any], name: str) -> list[str]:
        """See Making."""
        return [f"Published as the source prompt {name}.", *sentences(verdict)]

    def model(self, job: Job) -> str:
        """None: nothing answers with it."""
        return ""


class _Listener:
    """Tells of a source training as of any: its phases, and the scores of all tasks at once."""

    def __init__(self, terms: Terms) -> None:
        self._terms, self._phase = terms, ""
        self._scores: dict[str, float] = {}

    def updated(self, progress: Progress) -> None:
        """An update was made."""
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._terms.begun(progress.phase)
        self._terms.updated(progress)

    def validated(self, one: TaskValidated) -> None:
        """A task was looked at, or all were. Teachers are validated each for itself, tasks one behind
        another, and behind them comes their mean."""
        found = one.found
        if one.phase == TEACHERS:
            scores = {f"{one.task}/teacher_{name}": value for name, value in found.scores.items()}
            self._terms.validated(replace(found, scores=scores))
        elif one.task:
            self._scores.update({f"{one.task}/{name}": value for name, value in found.scores.items()})
        else:
            scores, self._scores = {**found.scores, **self._scores}, {}
            self._terms.validated(replace(found, scores=scores))
