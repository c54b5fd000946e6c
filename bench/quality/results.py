"""Trials in a file of JSON lines, so that a run that was cut off goes on where it stood."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench.quality.task import Task
from bench.quality.trial import Trial
from caikit_pt.base_model.frozen import BaseModel

_Key = tuple[str, str, str, int, int]


class Results:
    """What is in `file` already, and what is added to it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text("utf-8").splitlines() if file.exists() else ()
        self._trials = {_key(trial): trial for trial in (Trial(**json.loads(line)) for line in lines)}

    def get(self, base: BaseModel, task: Task, request: str) -> Trial | None:
        """The trial, where it was made on as many records."""
        return self._trials.get((base.checkpoint.name, task.name, request, *task.sizes))

    def add(self, trial: Trial) -> Trial:
        """Keeps it, and tells of it."""
        self._trials[_key(trial)] = trial
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        told = f"{trial.model} {trial.task} {trial.request}: {trial.accuracy:.3f}, {trial.seconds:.0f} s"
        print(told, file=sys.stderr, flush=True)
        return trial


def _key(trial: Trial) -> _Key:
    return trial.model, trial.task, trial.request, trial.records, trial.judged
