"""The tasks of a source prompt, as a command is told of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caikit_pt.commands.options import given, help_of
from caikit_pt.commands.outcome import WrongCommand
from caikit_pt.parameters.source import OF_EACH_TASK, SHARED_PARAMETERS, SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.tuning.record_file import ENDINGS


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """A task: the names of its files, the second empty where there is none, and what is set for it alone."""

    records: str
    validation: str = ""
    own: Mapping[str, str] = field(default_factory=dict)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """The options that say which tasks there are."""
    parser.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help=f"a task and its records: {', '.join(ENDINGS)}; once for each",
    )
    parser.add_argument(
        "--validation",
        action="append",
        metavar="NAME=FILE",
        help="records to validate a task with; else some of its own may be split off (--validation-share)",
    )
    for parameter in OF_EACH_TASK:
        parser.add_argument(
            f"--{parameter.replace('_', '-')}",
            action="append",
            dest=parameter,
            metavar="NAME=VALUE",
            help=f"of a task: {help_of(TUNING_PARAMETERS[parameter])}",
        )


def tasks_of(options: argparse.Namespace) -> dict[str, TaskFiles]:
    """By name, in their order. Raises WrongCommand."""
    files = _by_task("--task", options.task)
    validation = _by_task("--validation", options.validation or (), files)
    own = {
        name: _by_task(f"--{name.replace('_', '-')}", getattr(options, name) or (), files)
        for name in OF_EACH_TASK
    }
    return {
        name: TaskFiles(
            file,
            validation.get(name, ""),
            {parameter: values[name] for parameter, values in own.items() if name in values},
        )
        for name, file in files.items()
    }


def parameters_of(options: argparse.Namespace) -> dict[str, object]:
    """Those that are set: of sources alone, and of all tasks."""
    own = {name: value for name, value in given(options, SHARED_PARAMETERS).items() if name != "base_model"}
    return {**given(options, SOURCE_PARAMETERS), **own}


def _by_task(option: str, pairs: Sequence[str], known: dict[str, str] | None = None) -> dict[str, str]:
    """The values of an option by the names of tasks, which are `known`. Raises WrongCommand."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, is_there, value = pair.partition("=")
        if not (name and is_there and value):
            raise WrongCommand(f"{option} {pair} can't be read. Expected: NAME=VALUE")
        if name in found:
            raise WrongCommand(f"{option} has {name} twice. Expected: each task once")
        if known is not None and name not in known:
            raise WrongCommand(f"{option} {pair} is of no task. Expected: one of {', '.join(known)}")
        found[name] = value
    return found
