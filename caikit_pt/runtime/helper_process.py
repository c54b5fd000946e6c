"""A process that helps another one train: `python -m caikit_pt.runtime.helper_process FOLDER DEVICE [CALLS]`.

FOLDER is that of the job. Commands come from stdin, a JSON object a line: what is known of kernels when it is
to load the base model, then, each time that workers are gathered anew, where they meet. It says on stdout
when it waits for a command. With CALLS, a file in which who leads says where it is (helper_calls.py), both go
over that line. When there can be no more commands, because who leads wants it to end or is no more, or when
stdin ends, it ends at once: it has nothing that anybody would miss.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from caikit_pt.base_model.layers.denormals import no_denormals
from caikit_pt.base_model.layers.fastest import learn_from
from caikit_pt.base_model.loading.libraries import import_libraries
from caikit_pt.runtime.helper import END, READY
from caikit_pt.runtime.helper_calls import Line, call
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.tuning.crew import help_with
from caikit_pt.tuning.group import Group, GroupBroken, meeting_at, meeting_in

_LOG = logging.getLogger(__name__)
_NAME = "helper"
_LIKELY_TO_BE_KILLED = "700"  # of 1,000: sooner than who leads, where memory runs out
_SECONDS_BETWEEN_CALLS = 1.0


def work(commands: Iterator[Mapping[str, Any]], output: IO[str], folder: Path, device: str, own: str) -> None:
    """Until there are no more commands. `own`: the address of this machine; empty: who leads has the same."""
    learn_from(next(commands).get("kernels", ""))
    base = JobFolder(folder).plan().base_model(device)
    _say_ready(output)
    for command in commands:
        with suppress(GroupBroken):
            group = _group(own, **command)
            try:
                help_with(base, group)
            finally:
                group.leave()
        _say_ready(output)


def _group(own: str, rank: int, size: int, host: str, port: int = 0, file: str = "") -> Group:
    store = meeting_in(Path(file), size) if file else meeting_at(host, port, size)
    return Group(store, rank, size, own or host)


def _say_ready(output: IO[str]) -> None:
    output.write(f"{READY}\n")
    output.flush()


def _commands(lines: IO[str]) -> Iterator[Mapping[str, Any]]:
    """Whatever this process does, it ends when there can be no more, which is seen from now on: with 0 where
    it was told so."""
    told = queue.Queue[str]()

    def listen() -> None:
        is_let_go = False
        with suppress(OSError, ValueError):
            for line in lines:
                is_let_go = bool(json.loads(line).get(END))
                if not is_let_go:
                    told.put(line)
        os._exit(0 if is_let_go else 1)

    threading.Thread(target=listen, name="commands", daemon=True).start()
    return map(json.loads, iter(told.get, None))


def _called(file: Path) -> Line:
    """Who leads may be still about to begin."""
    while True:
        with suppress(OSError, ValueError):
            return call(file)
        time.sleep(_SECONDS_BETWEEN_CALLS)


def main() -> None:
    """What libraries print goes to the log."""
    folder, device, *calls = sys.argv[1:]
    output: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    own = ""
    os.dup2(2, 1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for file, text in (("oom_score_adj", _LIKELY_TO_BE_KILLED), ("comm", _NAME)):
        with suppress(OSError):
            Path("/proc/self", file).write_text(text)
    commands = _commands(sys.stdin)
    import_libraries()
    if calls:
        line = _called(Path(calls[0]))
        commands, output, own = _commands(line.reads), line.writes, line.host
    try:
        with no_denormals():
            work(commands, output, Path(folder), device, own)
    except BaseException:
        # Who leads does its share, and tells whatever is wrong with the training.
        _LOG.exception("a helper ends")
    os._exit(1)


if __name__ == "__main__":
    main()
