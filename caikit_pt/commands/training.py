"""`tune` and `check`, `watch`, `list`, `show`, `cancel`, `pause` and `resume`: trainings of a server."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caikit_pt.client import CANCELED, PAUSED, QUEUED, RUNNING, Training
from caikit_pt.commands.connecting import connected
from caikit_pt.commands.files import records_of
from caikit_pt.commands.following import add_requirement, followed, queued
from caikit_pt.commands.moment import ALLOWED, moment
from caikit_pt.commands.naming import NAMED, hinting, training_of
from caikit_pt.commands.options import Commands, add_table, given, help_of
from caikit_pt.commands.outcome import DONE, FAILED, WrongCommand
from caikit_pt.commands.output import as_json, known, plain, print_table, time_of, where
from caikit_pt.commands.report import print_report
from caikit_pt.parameters.source import SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS

_TABLES = (TUNING_PARAMETERS, SOURCE_PARAMETERS)
_OF_A_TASK = ("name", "records", "validation_records", "tuning_task", "verbalizer")
_FROM = "prompt_tuning_init_prompt"
# Not as the table has them: spelt otherwise, or not at all.
_TASK = "prompt_tuning_init_task"
_OF_EVERY_TRAINING = ("base_model", "silence_progress_bars", _FROM, _TASK)


def add_to(commands: Commands) -> None:
    """All of them."""
    tune = commands.ask("tune", _tune, "tune a prompt, and watch how it goes")
    _add_request(tune)
    tune.add_argument("--id", help="an id of your own: submitted twice, it is one training")
    until = tune.add_mutually_exclusive_group()
    until.add_argument("--detach", action="store_true", help="print the id, and don't watch")
    add_requirement(until)
    watch = commands.ask("watch", _watch, "watch a training until it has ended")
    watch.add_argument("training_id", help=NAMED)
    add_requirement(watch)
    watch.add_argument("--from-event", type=int, default=0, metavar="N", help="what happened behind event N")
    listed = commands.ask("list", _list, "the trainings, the latest first")
    listed.add_argument("--state", action="append", type=str.upper, help="only these; can be repeated")
    listed.add_argument("--model-name")
    for name in ("--since", "--until"):
        listed.add_argument(name, type=moment, metavar="TIME", help=f"of submission: {ALLOWED}")
    commands.ask("show", _show, "all that is known of a training").add_argument("training_id", help=NAMED)
    commands.ask("cancel", _cancel, "end a training").add_argument("training_id")
    commands.ask("pause", _pause, "stop a training until it is resumed").add_argument("training_id")
    commands.ask("resume", _resume, "queue a training that is paused").add_argument("training_id")
    _add_request(commands.ask("check", _check, "what a training would do, without doing it"))


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_name")
    parser.add_argument("--base-model", help=help_of(TUNING_PARAMETERS["base_model"]))
    parser.add_argument(
        "--from",
        dest=_FROM,
        metavar="NAME",
        help=help_of(TUNING_PARAMETERS[_FROM]),
    )
    parser.add_argument(
        f"--{_TASK.replace('_', '-')}",
        dest=_TASK,
        metavar="INDEX|NAME",
        help=help_of(TUNING_PARAMETERS[_TASK]),
    )
    for name, what in (("train", "to train on"), ("validation", "to validate with")):
        group = parser.add_mutually_exclusive_group(required=name == "train")
        group.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"records {what}: {', '.join(ENDINGS)}; sent along"
        )
        group.add_argument(f"--{name}-on-server", metavar="FILE", help="in the server's file_source_base")
    add_table(parser, TUNING_PARAMETERS, _OF_EVERY_TRAINING)


def _tune(options: argparse.Namespace) -> int:
    request = _request(options)
    with connected(options) as client:
        id = client.tune(options.model_name, training_id=options.id, **request)
        return queued(client, id, options)


def _watch(options: argparse.Namespace) -> int:
    with connected(options) as client:
        id = training_of(client, options.training_id).training_id
        return followed(client, id, options.from_event, options)


def _list(options: argparse.Namespace) -> int:
    with connected(options) as client:
        found = client.trainings(options.state or (), options.model_name or "", options.since, options.until)
        if options.json:
            for training in found:
                print(as_json(known(training)), flush=True)
            return DONE
        rows = [
            (
                one.training_id,
                one.state,
                one.makes,
                one.path,
                one.base_model,
                time_of(one.submitted),
                where(one),
            )
            for one in found
        ]
    print_table(("TRAINING", "STATE", "MAKES", "NAME", "BASE MODEL", "SUBMITTED", ""), rows)
    return DONE


def _show(options: argparse.Namespace) -> int:
    with connected(options) as client:
        training = training_of(client, options.training_id)
    if options.json:
        print(as_json(asdict(training)))
        return DONE
    origins = training.parameters.get("origins", {})
    print(f"{training.training_id}  {training.state}  {training.model_name}  {where(training)}".rstrip())
    for name in ("submitted", "started", "ended"):
        print(f"{name:10} {time_of(getattr(training, name))}")
    print(f"makes      {training.makes}")
    print(f"published  {training.path}")
    for reason in training.reasons:
        print(f"- {reason}")
    print()
    names = [one.name for table in _TABLES for one in table if one.name in training.parameters]
    print_table(
        ("PARAMETER", "VALUE", "FROM"),
        [(name, plain(training.parameters[name]), origins.get(name, "")) for name in names],
    )
    if training.tasks:
        print()
        rows = [[plain(task[name] or "-") for name in _OF_A_TASK] for task in training.parameters["tasks"]]
        print_table([name.replace("_", " ").upper() for name in _OF_A_TASK], rows)
    return DONE


def _cancel(options: argparse.Namespace) -> int:
    with connected(options) as client, hinting(client, options.training_id):
        state = client.cancel(options.training_id)
    print(as_json({"training_id": options.training_id, "state": state}) if options.json else state)
    return DONE if state == CANCELED else FAILED


def _pause(options: argparse.Namespace) -> int:
    with connected(options) as client, hinting(client, options.training_id):
        return _told(client.pause(options.training_id), options, PAUSED)


def _resume(options: argparse.Namespace) -> int:
    with connected(options) as client, hinting(client, options.training_id):
        return _told(client.resume(options.training_id), options, QUEUED, RUNNING)


def _told(training: Training, options: argparse.Namespace, *wanted: str) -> int:
    """Its state, and whether that is one of those that were `wanted`."""
    told = {"training_id": training.training_id, "state": training.state}
    print(as_json(told) if options.json else training.state)
    return DONE if training.state in wanted else FAILED


def _check(options: argparse.Namespace) -> int:
    with connected(options) as client:
        report = client.check(options.model_name, **_request(options))
    print_report(report, options.json)
    return DONE


def _request(options: argparse.Namespace) -> dict[str, Any]:
    if not (options.base_model or getattr(options, _FROM)):
        raise WrongCommand("--base-model is needed, or the tuned prompt to go on from: --from")
    request = {**given(options, TUNING_PARAMETERS), "file": options.train_on_server or ""}
    asked = Asked(options.input_field or "", options.output_field or "")
    if options.train:
        request["records"] = records_of(options.train, "train_stream", asked)
    if options.validation:
        request["validation_records"] = records_of(options.validation, "val_stream", asked)
    return {**request, "validation_file": options.validation_on_server or ""}
