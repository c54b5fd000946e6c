"""A part in a process of its own: what breaks a device, or hangs, takes nothing else with it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from bench.gpu.measure import Measure
from bench.gpu.parts import parts
from bench.gpu.row import FAILED, NOT_THERE, NotThere, Row
from bench.gpu.size import Size

# A row of the measure at hand, or whether the process goes on with the next one, now that it is done.
Message: TypeAlias = "Row | bool"
_LONGEST_REASON = 300
_NEEDED = (
    "bench.gpu.updates",
    "bench.serving.contenders",
    "bench.training.peer",
    "tests.numerics.families",
)
# After these a process can't use its device any more.
_BREAKING = ("CUDA error", "device-side assert", "illegal memory access", "CUBLAS_STATUS", "CUDNN_STATUS")


class Ended(Exception):
    """The process is gone, with everything that it hasn't sent."""


class Late(Exception):
    """Nothing came in time."""


@dataclass(frozen=True, slots=True)
class Process:
    """Takes the measures of part `number` from `first` on."""

    _process: Any
    _connection: Connection

    @classmethod
    def start(cls, size: Size, number: int, first: int, stop: float) -> Process:
        """Until `stop`, by time.monotonic.

        With a GPU each begins from nothing: a device isn't shared with a parent. Without one it is a copy of
        this process, which has imported everything.
        """
        context: Any = multiprocessing.get_context("fork" if size.device == "cpu" else "spawn")
        here, there = context.Pipe(duplex=False)
        seconds = stop - time.monotonic()
        process = context.Process(target=take, args=(there, size, number, first, seconds), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    def message(self, stop: float) -> Message:
        """The next one. Raises Late where none came until `stop`, Ended."""
        if not self._connection.poll(max(0.0, stop - time.monotonic())):
            raise Late
        try:
            message: Message = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            raise Ended(f"its process ended with {code}") from None
        return message

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def take(connection: Connection, size: Size, number: int, first: int, seconds: float) -> None:
    """In the process: each measure in turn as long as there is time for it; and then it is gone, at once."""
    stop = time.monotonic() + seconds
    _quiet(size)
    measures = parts(size)[number].measures
    for measure, following in zip(measures[first:], [*measures[first + 1 :], None], strict=True):
        fit = _taken(connection, measure, size)
        goes_on = fit and following is not None and following.seconds <= stop - time.monotonic()
        connection.send(goes_on)
        if not goes_on:
            break
    connection.close()
    sys.stderr.flush()
    # Threads of libraries may never end.
    os._exit(0)


def _taken(connection: Connection, measure: Measure, size: Size) -> bool:
    """Sends its rows, or why there are none; whether the process can go on."""
    try:
        for row in measure.run():
            connection.send(row)
    except NotThere as absent:
        connection.send(measure.row(str(absent), NOT_THERE))
    except BaseException as error:  # whatever a device brings about
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        connection.send(measure.row(reason, FAILED))
        return not any(sign in str(error) for sign in _BREAKING)
    finally:
        _tidy(size)
    return True


def _tidy(size: Size) -> None:
    """What a measure has held is free for the next."""
    import torch

    gc.collect()
    if size.device == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # of a broken device; the next measure tells
            traceback.print_exc()


def _quiet(size: Size) -> None:
    """Libraries tell of their next releases, and show bars."""
    import warnings

    import torch
    from transformers.utils import logging

    hushed: Any = logging
    hushed.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def preload() -> None:
    """Imports once what all copies of this process need; what can't be is told by the parts that need it."""
    for name in _NEEDED:
        with suppress(Exception):
            import_module(name)
