"""A job is cancelled by an exception that is raised in its thread, wherever that stands."""

from __future__ import annotations

import threading


def is_being_cancelled() -> bool:
    """Whether the exception at hand is the one that ends this thread: to caikit an ordinary RuntimeError.

    Whoever catches every exception asks, and raises it again.
    """
    return bool(getattr(threading.current_thread(), "destroyed", False))
