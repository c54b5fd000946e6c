"""What is so quick that it is done where it is found to be due: refusals."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class AtOnce(ThreadPoolExecutor):
    """Does all in the thread that submits it, and never has one of its own, nor a queue.

    That is the one in which the server takes RPCs on: it takes the next one on afterwards, so that refusals
    need memory for one, however many RPCs come, and wait for no RPC that is answered. gRPC takes nothing
    that isn't a ThreadPoolExecutor.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As that of every executor."""
        done: Future[Any] = Future()
        try:
            done.set_result(act(*arguments, **options))
        except Exception as error:
            done.set_exception(error)
        return done
