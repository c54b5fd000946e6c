"""What a training would do, printed: for `check`, and for `sources train --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caikit_pt.commands.output import as_json, print_table

_OF_RECORDS = ("records", "validation_records", "source_tokens", "target_tokens")
_OF_ALL = (
    "updates_per_epoch",
    "updates",
    "teacher_updates",
    "seconds",
    "device_memory_bytes",
    "least_device_memory_bytes",
)
_LENGTHS = ("median", "p90", "p99", "longest", "limit", "cut")


def print_report(report: Mapping[str, Any], json: bool) -> None:
    """`report` is what CheckTraining and CheckSourceTraining answer."""
    if json:
        print(as_json(report))
        return
    if tasks := report.get("tasks"):
        rows = [(name, *(_shown(told[what]) for what in _OF_RECORDS)) for name, told in tasks.items()]
        print_table(["TASK", *(what.replace("_", " ").upper() for what in _OF_RECORDS)], rows)
        print()
    for name in (*_OF_RECORDS, *_OF_ALL):
        if name in report:
            print(f"{name:22} {_shown(report[name])}")
    for warning in report["warnings"]:
        print(f"- {warning}")


def _shown(value: Any) -> str:
    return ", ".join(f"{name} {value[name]}" for name in _LENGTHS) if isinstance(value, dict) else str(value)
