"""Whose warnings those are that come while one of several trainings of this thread is at work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WHOSE: ContextVar[str] = ContextVar("whose", default="")


@contextmanager
def whose(name: str) -> Iterator[None]:
    """What is warned of inside is told with `name` in front."""
    token = _WHOSE.set(name)
    try:
        yield
    finally:
        _WHOSE.reset(token)


def warn(log: logging.Logger, text: str) -> None:
    """A warning of a training, with the name of whose it is where there are several."""
    log.warning("%s", ": ".join(filter(None, (_WHOSE.get(), text))))
