"""A source training put together: its plan and the base model that it is for.

The one way to do it, at a command line and in Python.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.failure import told
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.losses import backward, losses
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import FIELD, SourcePlan, TaskData
from caikit_pt.tuning.source_progress import SourceProgress, TaskValidated
from caikit_pt.tuning.source_tuner import tune_source

_SNAPSHOTS = "snapshots"


class SourceTraining:
    """What `plan` says, once its base model is there."""

    def __init__(self, plan: SourcePlan, device: str = "") -> None:
        """Reads the base model, where the plan doesn't bring it along; `device`: other than the plan has it.

        Raises what `BaseModelPool.get` does.
        """
        self.plan = plan
        self.base = plan.base_model(device)

    def run(
        self,
        on_update: Callable[[SourceProgress], None],
        on_validation: Callable[[TaskValidated], None] | None = None,
        snapshots: Snapshots | None = None,
        crew: Crew | None = None,
    ) -> TrainedSource:
        """Minutes to hours; by a `crew`, where there is one. Raises what `tune_source` does, and a
        CaikitPtError for whatever else ends it."""
        learn, look = (crew.backward, crew.losses) if crew else (backward, losses)
        compute = partial(gradients, backward=learn)
        with told():
            return tune_source(
                self.plan, self.base, on_update, compute, snapshots, on_validation, learn, look
            )


@contextmanager
def snapshots_in(state: str | Path, settings: Settings) -> Iterator[Snapshots | None]:
    """Those of one training in the directory `state`, which may have other files; none where it is empty.

    No other training has the directory inside. Raises InvalidParameter where another has it, and where none
    can be kept there.
    """
    if not state:
        yield None
        return
    directory = Path(state) / _SNAPSHOTS
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        allowed = f"a directory that can be written to ({error.strerror})"
        raise InvalidParameter("state", str(state), allowed) from error
    try:
        _lock(lock, state)
        yield Snapshots(directory, settings.checkpoint_seconds)
    finally:
        os.close(lock)


def _lock(directory: int, state: str | Path) -> None:
    """The directory itself is locked: no file of it stays, and the system lets go where a process dies."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        allowed = "a directory that no other training is at; wait for that one, or give this one its own"
        raise InvalidParameter("state", str(state), allowed) from None
    except OSError as error:
        allowed = f"a directory that can be locked ({error.strerror})"
        raise InvalidParameter("state", str(state), allowed) from error


def task_data(name: str, given: Any) -> TaskData:
    """The task that a Python caller has `given`: its records, or a mapping with `records` and whatever else
    TaskData has. Raises InvalidParameter."""
    if not isinstance(given, Mapping):
        return TaskData(name=name, records=given)
    known = [field.name for field in fields(TaskData) if field.name != "name"]
    wrong = [key for key in given if key not in known]
    if wrong or "records" not in given:
        allowed = f"records, or a mapping with records and, where they are needed, {', '.join(known[1:])}"
        raise InvalidParameter(f"{FIELD}.{name}", wrong[0] if wrong else "no records", allowed)
    return TaskData(name=name, **given)
