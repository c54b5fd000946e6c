"""`sources list | show | verify | publish`: the source prompts of a server, and of a directory here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from caikit_pt import settings
from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.client import Source
from caikit_pt.commands.connecting import connected
from caikit_pt.commands.options import Commands
from caikit_pt.commands.outcome import DONE, FAILED, WrongCommand
from caikit_pt.commands.output import as_json, known, plain, print_table, time_of
from caikit_pt.commands.source_training import add_train
from caikit_pt.errors import InvalidParameter, InvalidSourcePrompt
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_library import SourceLibrary, read_path
from caikit_pt.soft_prompt.source_manifest import SourceTask

_TOLD = (
    "base_model",
    "fingerprint",
    "num_virtual_tokens",
    "width",
    "num_ranks",
    "num_transformer_submodules",
    "sha256",
)
_JSON = "JSON on stdout, an object a line"


def add_to(commands: Commands) -> None:
    """All of them."""
    group = commands.group("sources", "source prompts, which multitask prompt tuning starts from")
    listed = group.ask("list", _list, "the source prompts of a server")
    listed.add_argument("--base-model", help="only those for this one")
    shown = group.ask("show", _show, "all that is known of a source prompt of a server")
    shown.add_argument("name", help="NAME, the newest version, or NAME/2")
    verify = group.add(
        "verify", _verify, "whether a source prompt is whole; a path here, or a name in SOURCE_PROMPT_BASE"
    )
    verify.add_argument("source", metavar="PATH_OR_NAME")
    verify.add_argument("--base-model", help="and whether it is for this one")
    verify.add_argument("--json", action="store_true", help=_JSON)
    _add_publish(group)
    add_train(group)


def _add_publish(group: Commands) -> None:
    told = "publish a source prompt as a new version of its name in SOURCE_PROMPT_BASE"
    publish = group.add("publish", _publish, told)
    publish.add_argument(
        "path",
        type=Path,
        metavar="FILE_OR_DIRECTORY",
        help="a bundle, a directory of peft, tensors (.safetensors, .bin, .pt), or a prompt of numpy (.npy)",
    )
    publish.add_argument("name")
    publish.add_argument("--base-model", required=True, help="what it was made on, under BASE_MODELS_DIR")
    publish.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        help="of a task, in the order of the tensors; once for each",
    )
    publish.add_argument(
        "--submodules", type=int, choices=(1, 2), help="2: the rows of both sides; as it says by default"
    )
    publish.add_argument(
        "--default", action="store_true", help="a training that names no source starts from this one"
    )
    publish.add_argument("--json", action="store_true", help=_JSON)


def _list(options: argparse.Namespace) -> int:
    with connected(options) as client:
        found = client.sources(options.base_model or "")
        if options.json:
            for source in found:
                print(as_json(known(source)), flush=True)
            return DONE
        rows = [_row(source) for source in found]
    print_table(("SOURCE", "BASE MODEL", "TOKENS", "CREATED", "TASKS", ""), rows)
    return DONE


def _row(source: Source) -> tuple[str, ...]:
    told = source.problem or "default" * source.is_default
    tokens = str(source.num_virtual_tokens or "-")
    tasks = ", ".join(map(plain, source.tasks)) or "-"
    return source.name, plain(source.base_model or "-"), tokens, time_of(source.created), tasks, plain(told)


def _show(options: argparse.Namespace) -> int:
    with connected(options) as client:
        source = client.source(options.name)
    if options.json:
        print(as_json(asdict(source)))
        return DONE
    print(f"{source.name}{'  default' * source.is_default}")
    print(f"{'created':27} {time_of(source.created)}")
    for name in _TOLD:
        print(f"{name:27} {plain(getattr(source, name) or '-')}")
    for part in ("recipe", "libraries"):
        for name, value in sorted(source.manifest.get(part, {}).items()):
            print(f"{f'{part}: {name}':27} {plain(value)}")
    print()
    tasks = source.manifest.get("tasks") or [{"name": name} for name in source.tasks]
    rows = [
        (
            plain(task["name"]),
            str(task.get("records") or "-"),
            plain(task.get("verbalizer") or "-"),
            _metrics(task.get("metrics", {})),
        )
        for task in tasks
    ]
    print_table(("TASK", "RECORDS", "VERBALIZER", "METRICS"), rows)
    return DONE


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())) or "-"


def _verify(options: argparse.Namespace) -> int:
    base = _base(options.base_model) if options.base_model else None
    problem, name = "", options.source
    try:
        source = _source(name)
        name = source.name
        if base:
            source.check_base(base)
    except UnusableSource as error:
        problem = error.wrong
    if options.json:
        print(as_json({"source": name, "whole": not problem, "problem": problem}))
    elif problem:
        print(f"{name}: {problem}", file=sys.stderr)
    else:
        print(f"{name} is whole{f', and for {base.name}' if base else ''}")
    return FAILED if problem else DONE


def _source(name: str) -> SourcePrompt:
    """What lies at a path, else what has the name. Raises UnusableSource, and WrongCommand where there is
    neither."""
    if os.path.exists(name):
        return read_path(Path(name))
    try:
        return _library("source").read(name)
    except InvalidSourcePrompt as error:
        if isinstance(error.__cause__, UnusableSource):
            raise error.__cause__ from None
        raise WrongCommand(str(error)) from None


def _publish(options: argparse.Namespace) -> int:
    base = _base(options.base_model)
    try:
        source = read_path(options.path, options.submodules or 0)
    except UnusableSource as error:
        raise WrongCommand(f"{options.path} can't be published. Expected: {error}") from None
    tasks = [SourceTask(name=name) for name in options.task or ()]
    try:
        made = _library("name").publish(options.name, source, base, tasks, default=options.default)
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    except OSError as error:
        raise WrongCommand(f"{options.name} can't be written ({error.strerror or error})") from None
    assert made.manifest is not None, "what is published has one"
    print(as_json({"name": made.name, **made.manifest.to_dict()}) if options.json else made.name)
    return DONE


def _library(field: str) -> SourceLibrary:
    """That of the settings. Raises InvalidSourcePrompt, and WrongCommand for settings that no server has."""
    try:
        root = settings.current().source_prompt_base
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    return SourceLibrary(root, field)


def _base(name: str) -> Checkpoint:
    """Raises WrongCommand."""
    try:
        checkpoint = locate(name, settings.current())
        _ = checkpoint.fingerprint
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    return checkpoint
