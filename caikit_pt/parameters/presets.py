"""Defaults by base model and task, from the setting `tuning_presets`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from caikit_pt.parameters.tuning import PRESET_PARAMETERS, TUNING_PARAMETERS


def preset(
    presets: Iterable[Mapping[str, Any]], base_model: str, tuning_task: str
) -> dict[str, tuple[Any, str]]:
    """The values of the first preset that matches, by name, each with its origin.

    A preset matches where its `base_model` pattern does (case-insensitive) and it has the task, or
    the task `default`. Raises InvalidParameter where a preset itself holds a value out of range.
    """
    for entry in presets:
        pattern = str(entry["base_model"])
        tasks = entry["tasks"]
        task = tuning_task if tuning_task in tasks else "default"
        if task in tasks and fnmatchcase(base_model.lower(), pattern.lower()):
            origin = f"preset {pattern} / {task}"
            return {
                name: (TUNING_PARAMETERS[name].check(value), origin)
                for name, value in tasks[task].items()
                if name in PRESET_PARAMETERS
            }
    return {}
