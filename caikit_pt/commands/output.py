"""What is printed, as JSON or for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from caikit_pt.columns import aligned, cell
from caikit_pt.training import PAUSED, QUEUED, Training


def as_json(value: Mapping[str, Any]) -> str:
    """An object, in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def known(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that hold something."""
    return {name: found for name, found in asdict(value).items() if found not in (None, "", {}, [])}


def where(training: Training) -> str:
    """Where a training stands, as far as it hasn't ended."""
    at = training.progress
    if training.state == QUEUED:
        return f"{training.queued_before} before it"
    if at is None or training.ended:
        return ""
    step = f"update {at.step} of {at.steps}"
    return step if training.state == PAUSED else f"{step}, about {at.eta_seconds:.0f} s to go"


def time_of(moment: datetime | None) -> str:
    """A moment, UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"


def plain(value: Any) -> str:
    """A value in a cell of a table."""
    return cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Under its head, in columns."""
    for line in aligned(head, rows):
        print(line)
