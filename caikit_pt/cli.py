"""caikit-pt: the command line.

Answers go to stdout, all else to stderr. Exit codes: 0 done; 1 the training ended in ERRORED, or the
server refused; 2 the command is wrong; 3 the training was cancelled; 4 the server can't be reached; 5 it
isn't better, and --require-better; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from caikit_pt.client import ServerError
from caikit_pt.commands import asking, judging, nodes, prompts, server, sources, training
from caikit_pt.commands.options import Commands, in_options
from caikit_pt.commands.outcome import DONE, FAILED, INTERRUPTED, UNREACHABLE, USAGE, WrongCommand


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _flushed(int(options.run(options)))
    except ServerError as error:
        print(f"{error.status}: {in_options(str(error), options)}", file=sys.stderr)
        return UNREACHABLE if error.status == "UNAVAILABLE" else FAILED
    except WrongCommand as error:
        print(f"caikit-pt: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        return _flushed(DONE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _flushed(code: int) -> int:
    """Whoever reads may be gone, which is too late to be told when Python ends: what is still to be written
    goes nowhere then (docs.python.org/3/library/signal.html#note-on-sigpipe)."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caikit-pt", description="Tune soft prompts and ask them.")
    commands = Commands(parser)
    for group in (server, training, nodes, prompts, sources, asking, judging):
        group.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
