"""A training that is watched, on a terminal, in a pipe or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from caikit_pt.client import CANCELED, COMPLETED, ENDED, Event, TuningClient
from caikit_pt.commands.outcome import DONE, FAILED, INTERRUPTED, NOT_BETTER, WAS_CANCELED
from caikit_pt.commands.output import as_json, known
from caikit_pt.errors import CaikitPtError
from caikit_pt.progress_bar import ProgressBar
from caikit_pt.tuning.outcome import BETTER

_ENDS = {COMPLETED: DONE, CANCELED: WAS_CANCELED}


def queued(client: TuningClient, id: str, options: argparse.Namespace) -> int:
    """What a command that has queued the training `id` shows: its id alone, or how it goes."""
    if options.detach:
        print(json.dumps({"training_id": id}) if options.json else id)
        return DONE
    if not options.json:
        print(f"training {id}", file=sys.stderr, flush=True)
    return followed(client, id, 0, options)


def followed(client: TuningClient, id: str, from_event: int, options: argparse.Namespace) -> int:
    """Shows events until the end. Ctrl-C leaves the training running."""
    bar = ProgressBar() if sys.stderr.isatty() and not options.json else None
    show = bar.show if bar else _print_json if options.json else _print_line
    try:
        for event in client.watch(id, from_event, tell_lost):
            # Reasons stand below, a line each.
            if options.json or event.state not in ENDED:
                show(event)
    except KeyboardInterrupt:
        print(f"\nThe training goes on. Watch it again: caikit-pt watch {id}", file=sys.stderr)
        return INTERRUPTED
    finally:
        if bar:
            bar.close()
    training = client.training(id)
    if not options.json:
        for reason in training.reasons:
            print(reason, file=sys.stderr)
        print(training.state)
    if (
        training.state == COMPLETED
        and getattr(options, "require_better", False)
        and training.outcome != BETTER
    ):
        print(f"--require-better: the prompt is published, and {training.outcome}", file=sys.stderr)
        return NOT_BETTER
    return _ENDS.get(training.state, FAILED)


def add_requirement(parser: Any) -> None:
    """The option of what a training has to come to."""
    parser.add_argument(
        "--require-better",
        action="store_true",
        help=f"exit code {NOT_BETTER} unless the verdict is that the prompt is better than its untuned base, "
        "and than always giving the commonest answer",
    )


def tell_lost(error: CaikitPtError) -> None:
    """The server is gone for now."""
    print(
        f"The server doesn't answer, and is asked again every second ({error.status})",
        file=sys.stderr,
        flush=True,
    )


def _print_json(event: Event) -> None:
    print(as_json(known(event)), flush=True)


def _print_line(event: Event) -> None:
    print(f"{event.time:%H:%M:%S} {event}", file=sys.stderr, flush=True)
