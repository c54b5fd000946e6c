"""Messages that are filled field by field, so that what has no room can be named."""

from __future__ import annotations

from typing import Any


def fill(message: Any, name: str, value: Any) -> None:
    """Sets a field, of several values where it has them. Raises TypeError or ValueError where there is no
    room."""
    if isinstance(value, (list, tuple)):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)
