"""The server that a command asks, how it is reached, and by whom."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from caikit_pt.client import DEFAULT_ADDRESS, Security, TuningClient
from caikit_pt.commands.outcome import WrongCommand
from caikit_pt.errors import InvalidParameter

# Each option has a variable, too.
_VARIABLES = {name: f"CAIKIT_PT_{name.upper()}" for name in ("tls", "ca", "cert", "key", "token_file")}
_TRUTHS = {"": None, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def add_security(parser: argparse.ArgumentParser, token: bool = True) -> None:
    """The options that say how a server is reached, and, with a `token`, by whom."""
    group = parser.add_argument_group("security (docs/security.md)")
    told = {
        "ca": "certificates that the server's is checked by, PEM",
        "cert": "the certificate of this client, PEM",
        "key": "the key of --cert, PEM",
        "token_file": "a file with the token of whoever asks",
    }
    group.add_argument(
        "--tls", action="store_true", default=None, help=f"with TLS; {_VARIABLES['tls']}=true by default"
    )
    for name, meaning in told.items():
        if name == "token_file" and not token:
            continue
        group.add_argument(
            f"--{name.replace('_', '-')}", metavar="FILE", help=f"{meaning}; {_VARIABLES[name]} by default"
        )


def security(options: argparse.Namespace) -> Security:
    """As the options say, and the environment where these say nothing. Raises WrongCommand."""
    given = {
        name: getattr(options, name, None) or os.environ.get(_VARIABLES[name]) or None for name in _VARIABLES
    }
    file = given["token_file"]
    return Security(
        tls=_truth(given["tls"]),
        ca=given["ca"],
        cert=given["cert"],
        key=given["key"],
        token=_token(Path(file)) if file else "",
    )


def connected(options: argparse.Namespace) -> TuningClient:
    """A client of the server that is asked. Raises WrongCommand."""
    asked = security(options)
    try:
        return TuningClient(
            options.server or DEFAULT_ADDRESS,
            tls=asked.tls,
            ca=asked.ca,
            cert=asked.cert,
            key=asked.key,
            token=asked.token,
        )
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None


def _truth(told: bool | str | None) -> bool | None:
    text = str(told or "").lower()
    if text not in _TRUTHS:
        raise WrongCommand(f"{_VARIABLES['tls']} is true or false, and not {told!r}")
    return _TRUTHS[text]


def _token(file: Path) -> str:
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is no text"
        raise WrongCommand(f"the token in {file} can't be read: {told}") from None
    if not token:
        raise WrongCommand(f"{file} holds no token")
    return token
