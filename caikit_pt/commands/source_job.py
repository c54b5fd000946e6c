"""A source prompt that a server trains, as one of its jobs, which is watched here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from caikit_pt.commands.connecting import connected
from caikit_pt.commands.following import queued
from caikit_pt.commands.outcome import DONE, WrongCommand
from caikit_pt.commands.report import print_report
from caikit_pt.commands.source_tasks import TaskFiles, parameters_of, tasks_of

_ON_SERVER = ("id", "detach", "on_server")


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options that a training of a server has alone."""
    group = parser.add_argument_group("with --server")
    group.add_argument("--id", help="an id of your own: submitted twice, it is one training")
    group.add_argument("--detach", action="store_true", help="print the id, and don't watch")
    group.add_argument(
        "--on-server", action="store_true", help="the files of all tasks lie in the server's file_source_base"
    )


def check_unset(options: argparse.Namespace) -> None:
    """Raises WrongCommand for an option of these where there is no server."""
    for name in _ON_SERVER:
        if getattr(options, name):
            raise WrongCommand(f"--{name.replace('_', '-')} is of a training of a server: --server HOST:PORT")


def run(options: argparse.Namespace) -> int:
    """Queues it, and shows how it goes, as `tune` does; or tells what it would do. Raises WrongCommand."""
    tasks = {name: _task(task, options.on_server) for name, task in tasks_of(options).items()}
    with connected(options) as client:
        if options.dry_run:
            parameters = parameters_of(options)
            report = client.check_source(options.name, options.base_model, tasks, **parameters)
            print_report(report, options.json)
            return DONE
        id = client.train_source(
            options.name,
            options.base_model,
            tasks,
            options.default,
            options.id or "",
            **parameters_of(options),
        )
        return queued(client, id, options)


def _task(task: TaskFiles, on_server: bool) -> dict[str, Any]:
    if on_server:
        return {"file": task.records, "validation_file": task.validation, **task.own}
    validation = {"validation": Path(task.validation)} if task.validation else {}
    return {"records": Path(task.records), **validation, **task.own}
