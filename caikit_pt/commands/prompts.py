"""`prompts`: the tuned prompts that a server has."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from caikit_pt.commands.connecting import connected
from caikit_pt.commands.options import Commands
from caikit_pt.commands.outcome import DONE, WrongCommand
from caikit_pt.commands.output import as_json, known, plain, print_table, time_of

_FACTS = ("base_model", "num_virtual_tokens", "verbalizer", "separator", "labels", "problem")


def add_to(commands: Commands) -> None:
    """All of them."""
    group = commands.group("prompts", "the tuned prompts that are served")
    listed = group.ask("list", _list, "by name")
    listed.add_argument("--base-model", help="only those of this one")
    group.ask("show", _show, "all that is known of one").add_argument("model_name")
    removed = group.ask("remove", _remove, "delete one: nothing is served under its name any more")
    removed.add_argument("model_name")
    download = group.ask("download", _download, "its files, as a tar archive")
    download.add_argument("model_name")
    download.add_argument("-o", "--output", type=Path, metavar="FILE", help="NAME.tar by default")


def _list(options: argparse.Namespace) -> int:
    with connected(options) as client:
        found = client.prompts(options.base_model or "")
        if options.json:
            for prompt in found:
                print(as_json(known(prompt)), flush=True)
            return DONE
        rows = [
            (
                one.model_name,
                one.base_model,
                str(one.num_virtual_tokens or "-"),
                time_of(one.published),
                one.problem,
            )
            for one in found
        ]
    print_table(("NAME", "BASE MODEL", "TOKENS", "PUBLISHED", ""), rows)
    return DONE


def _show(options: argparse.Namespace) -> int:
    with connected(options) as client:
        prompt = client.prompt(options.model_name)
    if options.json:
        print(as_json(asdict(prompt)))
        return DONE
    facts = known(prompt)
    print(f"{prompt.model_name}  {time_of(prompt.published)}")
    for name in _FACTS:
        if name in facts:
            print(f"{name:18} {plain(facts[name])}")
    print()
    origins = prompt.parameters.get("origins", {})
    rows = [
        (name, plain(value), str(origins.get(name, "")))
        for name, value in prompt.parameters.items()
        if name != "origins"
    ]
    print_table(("PARAMETER", "VALUE", "FROM"), rows)
    return DONE


def _remove(options: argparse.Namespace) -> int:
    with connected(options) as client:
        client.remove(options.model_name)
    print(as_json({"model_name": options.model_name}) if options.json else options.model_name)
    return DONE


def _download(options: argparse.Namespace) -> int:
    file = options.output or Path(f"{options.model_name}.tar")
    with connected(options) as client:
        try:
            client.download(options.model_name, file)
        except OSError as error:
            raise WrongCommand(f"{file} can't be written: {error.strerror}") from None
    print(as_json({"model_name": options.model_name, "file": str(file)}) if options.json else file)
    return DONE
