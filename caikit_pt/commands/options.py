"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from typing import Any

from caikit_pt.client import DEFAULT_ADDRESS
from caikit_pt.commands.connecting import add_security
from caikit_pt.parameters.table import Parameter, ParameterTable

Run = Callable[[argparse.Namespace], int]
_MOST_IN_FLIGHT = 1000
_STREAMS = {"train_stream": "train", "val_stream": "validation", "test_stream": "test"}


class Commands:
    """The commands of a parser, each with what it runs."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(self, name: str, run: Run, help: str) -> argparse.ArgumentParser:
        """One that needs no server."""
        added: argparse.ArgumentParser = self._parsers.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        return added

    def group(self, name: str, help: str) -> Commands:
        """Commands of their own behind the name of one."""
        return Commands(self._parsers.add_parser(name, help=help, description=help))

    def ask(
        self, name: str, run: Run, help: str, server: str | None = DEFAULT_ADDRESS
    ) -> argparse.ArgumentParser:
        """One that asks a server, `server` by default; None: that of this machine."""
        told = f"{server or 'that of this machine, as its settings say,'} by default"
        return self._asking(name, run, help, server, told)

    def may_ask(self, name: str, run: Run, help: str, told: str) -> argparse.ArgumentParser:
        """One that asks a server where it is given one, and else does it here; `told` says so."""
        return self._asking(name, run, help, None, told)

    def _asking(
        self, name: str, run: Run, help: str, server: str | None, told: str
    ) -> argparse.ArgumentParser:
        added = self.add(name, run, help)
        told = f"or several of the same prompts, separated by commas; {told}"
        added.add_argument("--server", type=addresses, default=server, metavar="HOST:PORT", help=told)
        add_security(added)
        added.add_argument("--json", action="store_true", help="JSON on stdout, an object a line")
        return added


def add_table(parser: argparse.ArgumentParser, table: ParameterTable, besides: Iterable[str]) -> None:
    """The parameters of `table` as options, but those `besides`."""
    group = parser.add_argument_group("parameters (docs/parameters.md)")
    for parameter in table:
        if parameter.name not in besides:
            group.add_argument(
                f"--{parameter.name.replace('_', '-')}",
                dest=parameter.name,
                type=boolean if parameter.kind is bool else parameter.kind,
                nargs="+" if parameter.many else None,
                choices=parameter.choices or None,
                metavar=None if parameter.choices else parameter.kind.__name__.upper(),
                help=help_of(parameter),
            )


def in_options(text: str, options: argparse.Namespace) -> str:
    """What a server says of the streams of a request, by the options that they were given by."""
    for stream, name in _STREAMS.items():
        if hasattr(options, f"{name}_on_server"):
            on_server = getattr(options, f"{name}_on_server")
            text = text.replace(stream, f"--{name}-on-server" if on_server else f"--{name}")
    return text


def given(options: argparse.Namespace, table: ParameterTable) -> dict[str, Any]:
    """The parameters of `table` that are set."""
    found = {parameter.name: getattr(options, parameter.name, None) for parameter in table}
    return {name: value for name, value in found.items() if value is not None}


def help_of(parameter: Parameter) -> str:
    """What a parameter means, for argparse."""
    return parameter.meaning.replace("%", "%%")


def address(text: str) -> str:
    """HOST:PORT. Raises ArgumentTypeError."""
    if not re.fullmatch(r"(?:[^\s:/\[\]]+|\[[^\s/\[\]]+\]):[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(
            f"HOST:PORT is expected, such as {DEFAULT_ADDRESS}, and not {text!r}"
        )
    return text


def addresses(text: str) -> str:
    """HOST:PORT, or several of them. Raises ArgumentTypeError."""
    found = [address(one) for one in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"each server once is expected, and not {text!r}")
    return text


def count(text: str) -> int:
    """Requests at a time. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MOST_IN_FLIGHT:
        raise argparse.ArgumentTypeError(f"1 to {_MOST_IN_FLIGHT}")
    return int(text)


def boolean(text: str) -> bool:
    """Raises ArgumentTypeError."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("true or false")
    return text.lower() == "true"
