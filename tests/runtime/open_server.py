"""The server as it is started, which tells what it holds, in JSON, whoever connects to the socket TELLER.

Requests with one of STOPS have something in the engine raise what no request should survive.
"""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import threading
from typing import Any

from caikit_pt.runtime.guard.guard import Guard
from caikit_pt.runtime.guard.lane import Lane
from caikit_pt.runtime.launcher import serve
from caikit_pt.runtime.slots import Slots
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.request import Request


class Panic(BaseException):
    """As tokenizers raises it where its Rust panics."""


STOPS = {"raise SystemExit": SystemExit(3), "raise Panic": Panic("at the disco")}


def held() -> dict[str, int]:
    """Whatever a request could leave behind."""
    engines = _all(Engine)
    return {
        "rows": sum(len(running.generations) for engine in engines for running in engine._running),
        "reading": sum(len(engine._reading) for engine in engines),
        "waiting": sum(len(engine._scheduler) for engine in engines),
        "places": sum(lane.under_way for lane in _all(Lane)),
        "under way": sum(len(guard._under_way) for guard in _all(Guard)),
        "slots": sum(len(slots._taken) for slots in _all(Slots)),
    }


def threads() -> list[str]:
    """Those that aren't of a lane, which has no more than it may. Numbers are left out: some threads
    are made anew every few seconds."""
    lanes = tuple(lane.name for lane in _all(Lane))
    names = [one.name for one in threading.enumerate() if not one.name.startswith(lanes)]
    return sorted(re.sub(r"\d+", "N", name) for name in names)


def _all(kind: type) -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, kind)]


def _tell() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.environ["TELLER"])
        listening.listen()
        while True:
            asking, _ = listening.accept()
            with asking:
                asking.sendall(json.dumps({"held": held(), "threads": threads()}).encode())


def _spoil() -> None:
    take = Request.take

    def take_or_raise(self: Request, token: int, worths: Any) -> None:
        for stop in self.parameters.stop_sequences:
            if stop in STOPS:
                raise STOPS[stop]
        take(self, token, worths)

    Request.take = take_or_raise  # type: ignore[method-assign]


if __name__ == "__main__":
    _spoil()
    threading.Thread(target=_tell, name="teller", daemon=True).start()
    serve()
