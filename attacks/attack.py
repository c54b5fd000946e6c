"""One attack: what it does, and what it is to be told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import grpc

from attacks.target import SECRET, Target
from caikit_pt.errors import CaikitPtError

REFUSED = ("INVALID_ARGUMENT",)
UNKNOWN = ("NOT_FOUND",)
DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND")
ANSWERED = ""
_LONGEST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Attack:
    """`act` is to end within `seconds`, refused with one of `statuses`; "" among them: or answered."""

    name: str
    act: Callable[[Target], object]
    statuses: tuple[str, ...] = REFUSED
    seconds: float = 20.0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of an attack; `faults` is empty where all is as it should be."""

    status: str
    text: str
    seconds: float
    faults: list[str]


def attempt(attack: Attack, target: Target) -> Outcome:
    """Attacks, and looks whether the server is what it was."""
    began = time.monotonic()
    status, text = _answer(attack, target)
    seconds = time.monotonic() - began
    return Outcome(status, text, seconds, list(_faults(attack, target, status, text, seconds)))


def _answer(attack: Attack, target: Target) -> tuple[str, str]:
    under_way: Future[object] = Future()
    threading.Thread(target=_act, args=(attack, target, under_way), daemon=True).start()
    try:
        under_way.result(attack.seconds)
    except TimeoutError:
        return "no end", ""
    except CaikitPtError as error:
        return error.status, str(error)
    except grpc.RpcError as failed:
        return failed.code().name, failed.details() or ""
    return ANSWERED, ""


def _act(attack: Attack, target: Target, under_way: Future[object]) -> None:
    try:
        under_way.set_result(attack.act(target))
    except BaseException as error:
        under_way.set_exception(error)


def _faults(attack: Attack, target: Target, status: str, text: str, seconds: float) -> Iterable[str]:
    if status not in attack.statuses:
        yield f"{status or 'answered'}, not {' or '.join(attack.statuses)}"
    if len(text) > _LONGEST_TEXT:
        yield f"a text of {len(text)} characters"
    if str(target.directory) in text or "Traceback" in text or SECRET in text:
        yield "the text tells of the machine"
    if not target.answers_others():
        yield "another client isn't answered as before"
    if target.was_touched():
        yield "a file outside was read, written or removed"
