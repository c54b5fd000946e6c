"""Jobs that make a tuned prompt, which is published as a model."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from caikit_pt.module import PeftPromptTuning
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.making import Making, Terms
from caikit_pt.runtime.plan_files import read_plan, write_plan
from caikit_pt.soft_prompt.history import Verdict
from caikit_pt.soft_prompt.publication import replacing
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.preflight import Preflight, preflight
from caikit_pt.tuning.training import Training
from caikit_pt.tuning.verdict import sentences


class PromptMaking(Making[TuningPlan, Preflight]):
    """One prompt is published at a time."""

    def __init__(self) -> None:
        self._publishing = threading.Lock()

    def look_through(self, plan: TuningPlan, most: int) -> Preflight:
        """See Making."""
        return preflight(plan, most)

    def write(self, plan: TuningPlan, directory: Path) -> None:
        """See Making."""
        write_plan(directory, plan)

    def read(self, directory: Path) -> TuningPlan:
        """See Making."""
        return read_plan(directory)

    def make(self, plan: TuningPlan, artifact: Path, terms: Terms) -> None:
        """See Making."""
        training = Training(plan, terms.device)
        terms.begun("training")
        tuned = training.run(terms.joined, terms.updated, terms.validated, terms.snapshots, terms.crew)
        PeftPromptTuning(tuned, training.base).save(str(artifact))

    def publish(self, job: Job, made: Path, check: Callable[[], None]) -> str:
        """In the place of what had the name before."""
        path = Path(job.path)
        with self._publishing:
            with replacing(path, f"{job.id}-{job.fence}", check) as new:
                for file in made.iterdir():
                    shutil.copy(file, new)
            # Of earlier runs, whose servers were killed or stand still.
            for left in path.parent.glob(f".{escape(path.name)}.{escape(job.id)}-*"):
                shutil.rmtree(left, ignore_errors=True)
        return job.model_name

    def place(self, job: Job, name: str) -> Path:
        """See Making."""
        return Path(job.path)

    def verdict(self, made: Path) -> dict[str, Any]:
        """See Making."""
        return dict(Verdict(made))

    def sentences(self, verdict: Mapping[str, Any], name: str) -> list[str]:
        """See Making."""
        return sentences(verdict)

    def model(self, job: Job) -> str:
        """See Making."""
        return job.model_name
