"""A process that helps another one train: `python -m caikit_pt.runtime.helper_process`.

It takes commands from stdin, a JSON object a line: first the base model that it is to load, then, each time
that workers are gathered anew, where they meet. It says on stdout when it waits for a command. When stdin
ends, because who leads wants it to or is no more, it ends at once: it has nothing that anybody would miss.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.loading.libraries import import_libraries
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.tuning.crew import help_with
from caikit_pt.tuning.group import Group, GroupBroken, meeting_in

READY = "ready"
_LOG = logging.getLogger(__name__)
_NAME = "helper"
_LIKELY_TO_BE_KILLED = "700"  # of 1,000: sooner than who leads, where memory runs out


def work(commands: Iterator[Mapping[str, Any]], output: IO[str]) -> None:
    """Until there are no more commands."""
    base_of = next(commands)
    base = JobFolder(Path(base_of["folder"])).plan().base_model(base_of["device"])
    _say_ready(output)
    for command in commands:
        with suppress(GroupBroken):
            group = _group(**command)
            try:
                help_with(base, group)
            finally:
                group.leave()
        _say_ready(output)


def _group(store: str, rank: int, size: int, host: str) -> Group:
    return Group(meeting_in(Path(store), size), rank, size, host)


def _say_ready(output: IO[str]) -> None:
    output.write(f"{READY}\n")
    output.flush()


def _commands(lines: IO[str]) -> Iterator[Mapping[str, Any]]:
    """Whatever this process does, it ends when there can be no more."""
    told = queue.Queue[str]()

    def listen() -> None:
        for line in lines:
            told.put(line)
        os._exit(0)

    threading.Thread(target=listen, name="commands", daemon=True).start()
    while True:
        yield json.loads(told.get())


def main() -> None:
    """What libraries print goes to the log."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for file, text in (("oom_score_adj", _LIKELY_TO_BE_KILLED), ("comm", _NAME)):
        with suppress(OSError):
            Path("/proc/self", file).write_text(text)
    commands = _commands(sys.stdin)
    import_libraries()
    try:
        with no_denormals():
            work(commands, output)
    except BaseException:
        # Who leads does its share, and tells whatever is wrong with the training.
        _LOG.exception("a helper ends")
    os._exit(1)


if __name__ == "__main__":
    main()
