"""The plan of a source training, in files.

plan.json            the parameters that only source trainings have, and the names of the tasks
tasks/0/, 1/ ...     the plan of each (plan_files.py), in the order of the tensors
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from caikit_pt.parameters.source import SourceParameters
from caikit_pt.runtime.json_file import read_json, write_json
from caikit_pt.runtime.plan_files import PLAN, read_plan, unreadable, write_plan
from caikit_pt.tuning.source_plan import SourcePlan

_TASKS = "tasks"


def write_source_plan(directory: Path, plan: SourcePlan) -> None:
    """Raises OSError."""
    for number, of_task in enumerate(plan.tasks.values()):
        folder = _folder(directory, number)
        folder.mkdir(parents=True)
        write_plan(folder, of_task)
    write_json(directory / PLAN, {"parameters": plan.parameters.to_dict(), "tasks": list(plan.names)})


def read_source_plan(directory: Path) -> SourcePlan:
    """As it was written. Raises as `read_plan` does."""
    try:
        described = read_json(directory / PLAN)
        names = list(described["tasks"])
        known = {field.name for field in fields(SourceParameters)}
        own = {name: value for name, value in described["parameters"].items() if name in known}
        parameters = SourceParameters(**{**own, "state_layers": tuple(own["state_layers"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(error) from error
    plans = {name: read_plan(_folder(directory, number)) for number, name in enumerate(names)}
    return SourcePlan(plans, parameters)


def _folder(directory: Path, number: int) -> Path:
    """A task's, by its number: its name needn't be one of a folder."""
    return directory / _TASKS / str(number)
