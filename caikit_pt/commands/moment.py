"""A time that a command is given: a date, a moment, or how long ago."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(rf"([0-9]{{1,6}})([{''.join(_UNITS)}])")
_DAYS = {"today": 0, "yesterday": 1}
ALLOWED = (
    "a date (2026-01-31), a moment (2026-01-31T14:00, UTC unless it says otherwise), how long ago (30m, 2h, "
    "3d, 1w), today or yesterday"
)


def moment(text: str) -> datetime:
    """In UTC; of a day its beginning. Raises ArgumentTypeError."""
    told, now = text.strip().lower(), datetime.now(UTC)
    if told in _DAYS:
        return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_DAYS[told])
    try:
        if ago := _AGO.fullmatch(told):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time. Allowed: {ALLOWED}") from None
