"""Values as a page has them: times, lengths of time, numbers, estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from markupsafe import Markup

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def moment(time: datetime | None) -> str:
    """To the second."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "-"


def duration(seconds: float | None) -> str:
    """In two units at the most."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def number(value: Any, digits: int = 4) -> str:
    """A score or a loss."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}" if math.isfinite(value) else "not finite"


def plain(value: Any) -> str:
    """The value of a parameter."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return "" if value is None else str(value)


def size(count: float) -> str:
    """Of bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def estimate(found: Mapping[str, Any] | None) -> str:
    """A value with its interval; a question mark is what so few records can't tell."""
    if not found:
        return "-"
    value, low, high = (
        "?" if found.get(name) is None else f"{found[name]:.3f}" for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def coded(text: str) -> Markup:
    """A text of ours, in which names stand between backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup("{}").format(text)
    made = (Markup("<code>{}</code>" if at % 2 else "{}").format(part) for at, part in enumerate(parts))
    return Markup("").join(made)
